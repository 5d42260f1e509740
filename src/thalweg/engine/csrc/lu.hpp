// Systems of linear equations, one of each lane, side by side.
//
// A: n x n rows of a tile, row-major: those of entry (i, j) begin at (i n + j) lanes. x: n rows.

#pragma once

#include "rows.hpp"

namespace thalweg::THALWEG_ISA {

// P A = L U, with the pivots of each lane its own: as large as its column has them.
template <class T>
class Factors {
public:
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;

  explicit Factors(int size)
      : n(size), matrix_(entries(size)), inverse_(static_cast<std::size_t>(size) * L), pivot_(static_cast<std::size_t>(size) * L),
        swaps_(static_cast<std::size_t>(size) * size / 2 + 1) {}

  // Where A is to be written, which `factor` overwrites.
  T* matrix() { return matrix_.data(); }

  // In a lane whose A is singular, what is solved afterwards is not finite.
  void factor() {
    swapped_ = 0;
    for (int k = 0; k < n; ++k) {
      choose(k);
      for (int i = k + 1; i < n; ++i)
        if (pivots_at(k, i)) {
          for (int c = 0; c < n; ++c) exchange(at(k, c), at(i, c), k, i);
          swaps_[swapped_++] = {k, i};
        }
      eliminate(k);
    }
  }

  // A x = b: x holds b before.
  void solve(T* x) const {
    for (int s = 0; s < swapped_; ++s) exchange(x + swaps_[s].row * L, x + swaps_[s].other * L, swaps_[s].row, swaps_[s].other);
    for (int i = 1; i < n; ++i) subtract(at(i, 0), x, i, x + i * L);
    for (int i = n; i-- > 0;) {
      T* const to = x + i * L;
      subtract(at(i, i + 1), x + (i + 1) * L, n - i - 1, to);
      for (int j = 0; j < L; j += W) (Vec<T>::load(to + j) * Vec<T>::load(inverse_.data() + i * L + j)).store(to + j);
    }
  }

private:
  struct Swap {
    int row, other;
  };

  const int n;
  Array<T> matrix_, inverse_, pivot_;  // of each row: one over the number on U's diagonal; the row that came in its place
  Array<Swap> swaps_;                  // those of any lane, in order
  int swapped_ = 0;

  static std::size_t entries(int size) { return static_cast<std::size_t>(size) * size * L; }
  T* at(int i, int j) const { return matrix_.data() + (static_cast<std::ptrdiff_t>(i) * n + j) * L; }

  // The row with the largest number in column k, from row k on.
  void choose(int k) {
    for (int j = 0; j < L; j += W) {
      Vec<T> largest = abs(Vec<T>::load(at(k, k) + j)), row = Vec<T>(static_cast<T>(k));
      for (int i = k + 1; i < n; ++i) {
        const Vec<T> x = abs(Vec<T>::load(at(i, k) + j));
        const auto larger = x > largest;
        largest = select(larger, x, largest);
        row = select(larger, static_cast<T>(i), row);
      }
      row.store(pivot_.data() + k * L + j);
    }
  }
  Mask<T> chosen(int k, int i, int j) const { return Vec<T>::load(pivot_.data() + k * L + j) == Vec<T>(static_cast<T>(i)); }
  bool pivots_at(int k, int i) const {
    for (int j = 0; j < L; j += W)
      if (any(chosen(k, i, j))) return true;
    return false;
  }
  // Two rows change places in the lanes where row i was chosen for k.
  void exchange(T* a, T* b, int k, int i) const {
    for (int j = 0; j < L; j += W) {
      const auto taken = chosen(k, i, j);
      const Vec<T> x = Vec<T>::load(a + j), y = Vec<T>::load(b + j);
      select(taken, y, x).store(a + j);
      select(taken, x, y).store(b + j);
    }
  }

  void eliminate(int k) {
    Vec<T> inverse[row_registers];
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) {
      inverse[j] = T(1) / Vec<T>::load(at(k, k) + j * W);
      inverse[j].store(inverse_.data() + k * L + j * W);
    }
    for (int i = k + 1; i < n; ++i) {
      Vec<T> factor[row_registers];
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) {
        factor[j] = Vec<T>::load(at(i, k) + j * W) * inverse[j];
        factor[j].store(at(i, k) + j * W);
      }
      const T* from = at(k, k + 1);
      T* to = at(i, k + 1);
      for (int c = k + 1; c < n; ++c, from += L, to += L)
#pragma GCC unroll 4
        for (int j = 0; j < row_registers; ++j)
          fnma(factor[j], Vec<T>::load(from + j * W), Vec<T>::load(to + j * W)).store(to + j * W);
    }
  }

  // to -= the sum of a_c x_c.
  static void subtract(const T* a, const T* x, int count, T* to) {
    Vec<T> sum[row_registers];
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) sum[j] = Vec<T>::load(to + j * W);
    for (int c = 0; c < count; ++c, a += L, x += L)
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) sum[j] = fnma(Vec<T>::load(a + j * W), Vec<T>::load(x + j * W), sum[j]);
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) sum[j].store(to + j * W);
  }
};

}  // namespace thalweg::THALWEG_ISA
