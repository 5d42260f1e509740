// Products of a shared matrix with the rows of a tile, and of the rows of two tiles with each other.
//
// x: K rows; out: R rows; weight: (R, K) row-major, packed into panels of at most `panel_rows` rows, each of which lies
// column after column, so that the innermost loop reads it in order. A panel's results stay in registers over all K.

#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "simd.hpp"

namespace thalweg::THALWEG_ISA {

// The registers that hold a row of a tile, and the samples that it carries.
#ifdef THALWEG_REGISTERS
inline constexpr int row_registers = THALWEG_REGISTERS;
#else
inline constexpr int row_registers = 2;
#endif
template <class T>
inline constexpr int lanes = row_registers * static_cast<int>(Vec<T>::lanes);

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int most_sums = 24;  // of 32 registers
#else
inline constexpr int most_sums = 12;  // of 16 registers
#endif
inline constexpr int panel_rows = most_sums / (row_registers > 2 ? row_registers : 2);

// The rows of panel p when R rows are dealt out evenly: no panel is much smaller than the others.
struct Panels {
  int count, small, larger;  // the first `larger` panels have one row more than `small`

  explicit Panels(int rows)
      : count((rows + panel_rows - 1) / panel_rows), small(rows / count), larger(rows % count) {}
  int rows(int p) const { return small + (p < larger); }
};

// Packs element (r, k) = weight[r row_step + k column_step].
template <class T>
void pack(const T* weight, int rows, int columns, std::ptrdiff_t row_step, std::ptrdiff_t column_step, T* packed) {
  const Panels panels(rows);
  for (int p = 0, first = 0; p < panels.count; first += panels.rows(p++))
    for (int k = 0; k < columns; ++k)
      for (int r = 0; r < panels.rows(p); ++r) *packed++ = weight[(first + r) * row_step + k * column_step];
}

template <class T, int Rows, bool Accumulate>
void multiply_panel(const T* weight, const T* bias, const T* x, int columns, T* out) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> sum[Rows][row_registers];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) {
      if constexpr (Accumulate)
        sum[r][j] = Vec<T>::load(out + r * L + j * W);
      else
        sum[r][j] = Vec<T>(bias ? bias[r] : T(0));
    }
  for (int k = 0; k < columns; ++k, weight += Rows, x += L) {
    Vec<T> right[row_registers];
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) right[j] = Vec<T>::load(x + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec<T> left(weight[r]);
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) sum[r][j] = fma(left, right[j], sum[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < row_registers; ++j) sum[r][j].store(out + r * L + j * W);
}

// Calls f with the compile-time number Rows equal to `rows`.
template <int Rows = panel_rows, class F>
THALWEG_INLINE void with_rows(int rows, F f) {
  if constexpr (Rows > 0) {
    if (rows == Rows)
      f(std::integral_constant<int, Rows>{});
    else
      with_rows<Rows - 1>(rows, f);
  }
}

// Memory that will soon be read, fetched into the cache a little at a time: who asks for all of it at once waits for it.
class Ahead {
public:
  void turn_to(const void* memory, std::size_t bytes) {
    at_ = static_cast<const char*>(memory);
    end_ = at_ + bytes;
  }
  void fetch() {
    for (int line = 0; line < 32 && at_ < end_; ++line, at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

private:
  const char *at_ = nullptr, *end_ = nullptr;
};

// out = weight x + bias, or out += weight x; bias may be missing. Fetches some of what is ahead with each panel.
template <class T, bool Accumulate>
void multiply(const T* packed, const T* bias, const T* x, int rows, int columns, T* out, Ahead* ahead = nullptr) {
  const Panels panels(rows);
  for (int p = 0, first = 0; p < panels.count; ++p) {
    const int count = panels.rows(p);
    if (ahead) ahead->fetch();
    with_rows(count, [&](auto n) {
      multiply_panel<T, decltype(n)::value, Accumulate>(packed + static_cast<std::ptrdiff_t>(first) * columns,
                                                        bias ? bias + first : nullptr, x, columns, out + first * lanes<T>);
    });
    first += count;
  }
}

// The columns of a gradient fill whole registers, those beyond K being for nothing.
template <class T>
constexpr int padded(int columns) {
  constexpr int W = Vec<T>::lanes;
  return (columns + W - 1) / W * W;
}

// Lane i of the result is lane I_i of a, or of b where I_i is W or more.
template <class T, int... I>
THALWEG_INLINE Vec<T> shuffled(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return {__builtin_shufflevector(a.v, b.v, I...)};
#else
  return {__builtin_shuffle(a.v, b.v, typename Raw<T>::Integers{I...})};
#endif
}

// Two rows exchange the numbers of every other D columns, D a power of two. By constants: compilers would put them together
// anew for each pair.
template <class T, int D, int... I>
THALWEG_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, I...>) {
  constexpr int W = sizeof...(I);
  const Vec<T> first = a, second = b;
  a = shuffled(first, second, std::integer_sequence<int, ((I & D) ? W + (I ^ D) : I)...>{});
  b = shuffled(first, second, std::integer_sequence<int, ((I & D) ? W + I : (I ^ D))...>{});
}

// A square of W x W numbers, W those of a register, turned over its diagonal.
template <class T, int D = 1>
THALWEG_INLINE void transpose(Vec<T>* rows) {
  constexpr int W = Vec<T>::lanes;
  if constexpr (D < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & D)) exchange<T, D>(rows[i], rows[i | D], std::make_integer_sequence<int, W>{});
    transpose<T, 2 * D>(rows);
  }
}

// The rows [0, count) of W, and zeros in place of others, turned: W rows with `stride` numbers from one to the next.
template <class T>
THALWEG_INLINE void turn(const T* rows, int count, T* out, int stride) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> square[W];
  if (count >= W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) square[i] = Vec<T>::load(rows + i * L);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) square[i] = i < count ? Vec<T>::load(rows + i * L) : Vec<T>(T(0));
  }
  transpose<T>(square);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) square[i].store(out + i * stride);
}

template <class T, int Rows, int Registers>
void outer_panel(const T* const* left, int pairs, int first, const T* panel, T* out, int stride) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> sum[Rows][Registers];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < Registers; ++j) sum[r][j] = Vec<T>::load(out + static_cast<std::ptrdiff_t>(r) * stride + j * W);
  for (int p = 0; p < pairs; ++p) {
    const T* a = left[p] + first * L;
    for (int lane = 0; lane < L; ++lane, panel += Registers * W) {
      Vec<T> right[Registers];
#pragma GCC unroll 4
      for (int j = 0; j < Registers; ++j) right[j] = Vec<T>::load(panel + j * W);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec<T> l(a[r * L + lane]);
#pragma GCC unroll 4
        for (int j = 0; j < Registers; ++j) sum[r][j] = fma(l, right[j], sum[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < Registers; ++j) sum[r][j].store(out + static_cast<std::ptrdiff_t>(r) * stride + j * W);
}

// The columns [k, k + Registers W) of `outer`.
template <class T, int Registers>
void outer_columns(const T* const* left, const T* const* right, int pairs, int rows, int columns, int k, T* out, T* panel) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes, Width = Registers * W;
  const int stride = padded<T>(columns);
  for (int p = 0; p < pairs; ++p)
    for (int row = 0; row < Width; row += W)
      for (int lane = 0; lane < L; lane += W)
        turn(right[p] + (k + row) * L + lane, columns - k - row, panel + (p * L + lane) * Width + row, Width);
  const Panels panels(rows);
  for (int q = 0, first = 0; q < panels.count; ++q) {
    const int count = panels.rows(q);
    with_rows(count, [&](auto n) {
      outer_panel<T, decltype(n)::value, Registers>(left, pairs, first, panel,
                                                    out + static_cast<std::ptrdiff_t>(first) * stride + k, stride);
    });
    first += count;
  }
}

// out[r, k] += the sum over all pairs and lanes of left[pair][r] right[pair][k]; out: (R, padded(K)).
// `panel` has room for pairs * lanes^2 numbers.
template <class T>
void outer(const T* const* left, const T* const* right, int pairs, int rows, int columns, T* out, T* panel) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  int k = 0;
  for (; k + L <= padded<T>(columns); k += L)
    outer_columns<T, row_registers>(left, right, pairs, rows, columns, k, out, panel);
  for (; k < columns; k += W) outer_columns<T, 1>(left, right, pairs, rows, columns, k, out, panel);
}

template <class T, int Rows>
void outer_lanes_panel(const T* const* left, const T* const* right, int pairs, int first, int columns, T* out) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  for (int k = 0; k < columns; ++k) {
    T* const to = out + (static_cast<std::ptrdiff_t>(first) * columns + k) * L;
    Vec<T> sum[Rows][row_registers];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) sum[r][j] = Vec<T>::load(to + static_cast<std::ptrdiff_t>(r) * columns * L + j * W);
    for (int p = 0; p < pairs; ++p) {
      const T* const l = left[p] + first * L;
      const T* const x = right[p] + k * L;
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) {
        const Vec<T> b = Vec<T>::load(x + j * W);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) sum[r][j] = fma(Vec<T>::load(l + r * L + j * W), b, sum[r][j]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < row_registers; ++j) sum[r][j].store(to + static_cast<std::ptrdiff_t>(r) * columns * L + j * W);
  }
}

// The same lane by lane: out: (R, K, lanes), to be summed over lanes once, at the end. For small matrices, to turn whose
// rows would cost more than the products.
template <class T>
void outer_lanes(const T* const* left, const T* const* right, int pairs, int rows, int columns, T* out) {
  const Panels panels(rows);
  for (int p = 0, first = 0; p < panels.count; ++p) {
    const int count = panels.rows(p);
    with_rows(count, [&](auto n) { outer_lanes_panel<T, decltype(n)::value>(left, right, pairs, first, columns, out); });
    first += count;
  }
}

}  // namespace thalweg::THALWEG_ISA
