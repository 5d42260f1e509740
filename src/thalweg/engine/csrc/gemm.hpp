// Products of a shared matrix with the rows of a tile, and of the rows of two tiles with each other.
//
// x: K rows; out: R rows; weight: (R, K) row-major, packed into panels of at most `panel_rows` rows, each of which lies
// column after column, so that the innermost loop reads it in order. A panel's results stay in registers over all K.

#pragma once

#include <cstddef>
#include <type_traits>

#include "simd.hpp"

namespace thalweg::THALWEG_ISA {

// The registers that hold a row of a tile, and the samples that it carries.
#ifdef THALWEG_NARROW
inline constexpr int row_registers = 1;
#else
inline constexpr int row_registers = 2;
#endif
template <class T>
inline constexpr int lanes = row_registers * static_cast<int>(Vec<T>::lanes);

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int panel_rows = 12;  // of 32 registers, 24 hold results
#else
inline constexpr int panel_rows = 6;  // of 16 registers, 12 hold results
#endif

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
#pragma GCC unroll 2
    for (int j = 0; j < row_registers; ++j) {
      if constexpr (Accumulate)
        sum[r][j] = Vec<T>::load(out + r * L + j * W);
      else
        sum[r][j] = Vec<T>(bias ? bias[r] : T(0));
    }
  for (int k = 0; k < columns; ++k, weight += Rows, x += L) {
    Vec<T> right[row_registers];
#pragma GCC unroll 2
    for (int j = 0; j < row_registers; ++j) right[j] = Vec<T>::load(x + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec<T> left(weight[r]);
#pragma GCC unroll 2
      for (int j = 0; j < row_registers; ++j) sum[r][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
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

// out = weight x + bias, or out += weight x; bias may be missing.
template <class T, bool Accumulate>
void multiply(const T* packed, const T* bias, const T* x, int rows, int columns, T* out) {
  const Panels panels(rows);
  for (int p = 0, first = 0; p < panels.count; ++p) {
    const int count = panels.rows(p);
    with_rows(count, [&](auto n) {
      multiply_panel<T, decltype(n)::value, Accumulate>(packed + static_cast<std::ptrdiff_t>(first) * columns,
                                                        bias ? bias + first : nullptr, x, columns, out + first * lanes<T>);
    });
    first += count;
  }
}

// The columns of a gradient are a multiple of `lanes`, those beyond K being for nothing.
template <class T>
constexpr int padded(int columns) {
  return (columns + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// A square of W x W numbers, W those of a register, turned over its diagonal.
template <class T>
THALWEG_INLINE void transpose(Vec<T>* rows) {
  constexpr int W = Vec<T>::lanes;
#pragma GCC unroll 4
  for (int d = 1; d < W; d *= 2) {
    typename Raw<T>::Integers first, second;  // of a pair of rows (a, b): lanes of a are below W, those of b from W on
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      first[i] = (i & d) ? W + (i ^ d) : i;
      second[i] = (i & d) ? W + i : (i ^ d);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & d) continue;
      const auto a = rows[i].v, b = rows[i | d].v;
      rows[i].v = __builtin_shuffle(a, b, first);
      rows[i | d].v = __builtin_shuffle(a, b, second);
    }
  }
}

template <class T, int Rows>
void outer_panel(const T* const* left, int pairs, int first, const T* panel, T* out, int stride) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> sum[Rows][row_registers];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < row_registers; ++j) sum[r][j] = Vec<T>::load(out + static_cast<std::ptrdiff_t>(r) * stride + j * W);
  for (int p = 0; p < pairs; ++p) {
    const T* a = left[p] + first * L;
    for (int lane = 0; lane < L; ++lane, panel += L) {
      Vec<T> right[row_registers];
#pragma GCC unroll 2
      for (int j = 0; j < row_registers; ++j) right[j] = Vec<T>::load(panel + j * W);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec<T> l(a[r * L + lane]);
#pragma GCC unroll 2
        for (int j = 0; j < row_registers; ++j) sum[r][j] += l * right[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < row_registers; ++j) sum[r][j].store(out + static_cast<std::ptrdiff_t>(r) * stride + j * W);
}

// out[r, k] += the sum over all pairs and lanes of left[pair][r] right[pair][k]; out: (R, padded(K)).
// `panel` has room for pairs * lanes^2 numbers.
template <class T>
void outer(const T* const* left, const T* const* right, int pairs, int rows, int columns, T* out, T* panel) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  const int stride = padded<T>(columns);
  const Panels panels(rows);
  for (int k = 0; k < columns; k += L) {
    for (int p = 0; p < pairs; ++p)
      for (int row = 0; row < L; row += W)
        for (int lane = 0; lane < L; lane += W) {
          Vec<T> square[W];
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i)
            square[i] = k + row + i < columns ? Vec<T>::load(right[p] + (k + row + i) * L + lane) : Vec<T>(T(0));
          transpose<T>(square);
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) square[i].store(panel + (p * L + lane + i) * L + row);
        }
    for (int q = 0, first = 0; q < panels.count; ++q) {
      const int count = panels.rows(q);
      with_rows(count, [&](auto n) {
        outer_panel<T, decltype(n)::value>(left, pairs, first, panel, out + static_cast<std::ptrdiff_t>(first) * stride + k,
                                           stride);
      });
      first += count;
    }
  }
}

template <class T, int Rows>
void outer_lanes_panel(const T* const* left, const T* const* right, int pairs, int first, int columns, T* out) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  for (int k = 0; k < columns; ++k) {
    T* const to = out + (static_cast<std::ptrdiff_t>(first) * columns + k) * L;
    Vec<T> sum[Rows][row_registers];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int j = 0; j < row_registers; ++j) sum[r][j] = Vec<T>::load(to + static_cast<std::ptrdiff_t>(r) * columns * L + j * W);
    for (int p = 0; p < pairs; ++p) {
      const T* const l = left[p] + first * L;
      const T* const x = right[p] + k * L;
#pragma GCC unroll 2
      for (int j = 0; j < row_registers; ++j) {
        const Vec<T> b = Vec<T>::load(x + j * W);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) sum[r][j] += Vec<T>::load(l + r * L + j * W) * b;
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
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
