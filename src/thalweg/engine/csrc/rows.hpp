// Memory of a solve, and rows of a tile: copied, chosen, summed up.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "gemm.hpp"
#include "solve.hpp"

namespace thalweg::THALWEG_ISA {

// Memory of its own, aligned for any register; not initialised.
template <class X>
class Array {
public:
  Array() = default;
  explicit Array(std::size_t count) { resize(count); }
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() { std::free(memory_); }

  // What was there is lost. By malloc and not by aligned_alloc, which takes several times as long.
  void resize(std::size_t count) {
    std::free(memory_);
    memory_ = nullptr, data_ = nullptr;
    count_ = count;
    if (!count) return;
    const std::size_t bytes = (count * sizeof(X) + line - 1) / line * line;
    if (!(memory_ = std::malloc(bytes + line - 1))) throw std::bad_alloc();
    data_ = reinterpret_cast<X*>((reinterpret_cast<std::uintptr_t>(memory_) + line - 1) / line * line);
    if (poisoned()) fill_with_nan(data_, bytes);
  }
  void zero() {
    if (data_) std::memset(static_cast<void*>(data_), 0, count_ * sizeof(X));
  }

  // Zeros for lanes without a sample, whose numbers count for nothing: any would do, but some are slow.
  void calm() {
    if (!poisoned()) zero();
  }

  X* data() const { return data_; }
  std::size_t size() const { return count_; }
  X& operator[](std::size_t i) const { return data_[i]; }

private:
  static constexpr std::size_t line = 64;  // bytes of a line of the cache, and of the longest register
  void* memory_ = nullptr;
  X* data_ = nullptr;
  std::size_t count_ = 0;

  void swap(Array& other) {
    std::swap(memory_, other.memory_), std::swap(data_, other.data_), std::swap(count_, other.count_);
  }
};

// Rows, one after the other.
template <class T>
void copy_rows(const T* from, T* to, int rows) {
  std::memcpy(to, from, sizeof(T) * static_cast<std::size_t>(rows) * lanes<T>);
}

template <class T>
void zero_rows(T* to, int rows) {
  std::memset(to, 0, sizeof(T) * static_cast<std::size_t>(rows) * lanes<T>);
}

// A column of a tile, from or to contiguous numbers of one sample.
template <class T>
void put_column(const T* from, T* rows, int lane, int count) {
  for (int i = 0; i < count; ++i) rows[i * lanes<T> + lane] = from[i];
}

template <class T>
void take_column(const T* rows, int lane, T* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = rows[i * lanes<T> + lane];
}

// Rows of a tile in the lanes that the mask, which is not 0 there, names.
template <class T>
void copy_lanes(const T* from, T* to, const T* mask, int rows) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  for (int j = 0; j < L; j += W) {
    const Mask<T> taken = Vec<T>::load(mask + j) != Vec<T>(T(0));
    for (int at = j; at < rows * L + j; at += L)
      select(taken, Vec<T>::load(from + at), Vec<T>::load(to + at)).store(to + at);
  }
}

inline constexpr int most_terms = 64;  // of a method: its stages, extra ones too

// A sum of slopes: those whose weights are not 0.
template <class T>
struct Terms {
  const T* weights;
  const int* numbers;
  int count;
};

// to = y + h sum_n w_n k_n
template <class T>
void combine(const T* y, const T* const* k, Terms<T> terms, const T* h, T* to, int rows) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> size[row_registers];
#pragma GCC unroll 4
  for (int j = 0; j < row_registers; ++j) size[j] = Vec<T>::load(h + j * W);
  for (int at = 0; at < rows * L; at += L) {
    Vec<T> sum[row_registers];
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) sum[j] = Vec<T>(T(0));
    for (int n = 0; n < terms.count; ++n) {
      const Vec<T> w(terms.weights[n]);
      const T* const term = k[terms.numbers[n]] + at;
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) sum[j] = fma(Vec<T>::load(term + j * W), w, sum[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) fma(sum[j], size[j], Vec<T>::load(y + at + j * W)).store(to + at + j * W);
  }
}

}  // namespace thalweg::THALWEG_ISA
