// What the loop in Python does to a batch at each step, in one pass each: sums of stages, how large errors are, and what
// becomes of the step.
//
// Arrays lie as PyTorch has them, (rows, entries), one after the other; a joint solve is one row. The last numbers go
// through a register as all others do, so that what comes of a row does not depend on where in the batch it lies.

#pragma once

#include <cmath>
#include <cstring>

#include "isa.hpp"
#include "math.hpp"
#include "simd.hpp"

namespace thalweg::THALWEG_ISA {

// Where a register's numbers lie in arrays, all of them or the last few.
template <class T>
struct Span {
  std::size_t first, count;

  THALWEG_INLINE bool whole() const { return count == Vec<T>::lanes; }
  THALWEG_INLINE Vec<T> load(const T* array) const {
    if (whole()) return Vec<T>::load(array + first);
    T few[Vec<T>::lanes] = {};
    std::memcpy(few, array + first, count * sizeof(T));
    return Vec<T>::load(few);
  }
  THALWEG_INLINE void store(Vec<T> x, T* array) const {
    if (whole()) return x.store(array + first);
    T few[Vec<T>::lanes];
    x.store(few);
    std::memcpy(array + first, few, count * sizeof(T));
  }
};

template <class T, class F>
THALWEG_INLINE void each_span(std::size_t n, F f) {
  constexpr std::size_t W = Vec<T>::lanes;
  std::size_t i = 0;
  for (; i + W <= n; i += W) f(Span<T>{i, W});
  if (i < n) f(Span<T>{i, n - i});
}

// out = [base +] size sum_j weights_j stages_j, by a size for each number, or one for all.
template <class T>
void sum_stages(const T* stages, std::size_t n, const T* weights, int count, const T* base, const T* sizes, T size, T* out) {
  each_span<T>(n, [&](Span<T> at) THALWEG_INLINE_LAMBDA {
    Vec<T> sum(T(0));
    for (int j = 0; j < count; ++j)
      if (weights[j] != 0) sum = fma(at.load(stages + j * n), Vec<T>(weights[j]), sum);
    sum *= sizes ? at.load(sizes) : Vec<T>(size);
    at.store(base ? at.load(base) + sum : sum, out);
  });
}

// Of each row, the root mean square of x / (atol + rtol max(|y|, |z|)); x is overwritten.
template <class T>
void measure(T* x, const T* y, const T* z, T atol, T rtol, std::size_t rows, std::size_t entries, double* out) {
  each_span<T>(rows * entries, [&](Span<T> at) THALWEG_INLINE_LAMBDA {
    const Vec<T> largest = max(abs(at.load(y)), abs(at.load(z)));
    at.store(at.load(x) / fma(largest, Vec<T>(rtol), Vec<T>(atol)), x);
  });
  for (std::size_t row = 0; row < rows; ++row, x += entries) {
    double sum = 0;
    for (std::size_t i = 0; i < entries; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    out[row] = std::sqrt(sum / static_cast<double>(entries));
  }
}

// Sizes of rows, as numbers of the state's, beside each entry.
template <class T>
void spread(const double* sizes, std::size_t rows, std::size_t entries, T* out) {
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t i = 0; i < entries; ++i) *out++ = static_cast<T>(sizes[row]);
}

// The times t + c h of each stage, (count, rows).
template <class T>
void stage_times(const double* t, const double* h, const double* c, std::size_t count, std::size_t rows, T* out) {
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t row = 0; row < rows; ++row) *out++ = static_cast<T>(t[row] + c[i] * h[row]);
}

// What becomes of a step of each row.
inline Settled settle(const Settling& step, std::size_t rows) {
  const Settling s = step;  // its own: flags are bytes, which might be any part of what is elsewhere
  double* const factors = s.h_tried;  // until they are used
  each_span<double>(rows, [&](Span<double> at) THALWEG_INLINE_LAMBDA {
    // what is smaller lets a step grow no further; NaN stays
    const Vec<double> error = at_least(at.load(s.error), 1e-10);
    at.store(Vec<double>(s.safety) * pow(error, Vec<double>(s.power)), factors);
  });
  Settled found{0, false};
  for (std::size_t r = 0; r < rows; ++r) {
    const double t = s.t[r], h = s.h[r], goal = s.goal[r];
    const bool running = s.running[r], fits = s.error[r] <= 1, accept = running && fits;
    double factor = factors[r] > s.limit[r] ? s.limit[r] : factors[r];
    factor = factor > s.least ? factor : s.least;  // where it is NaN too
    const double grown = h * factor, next = running ? grown : s.proposed[r];
    const double t_next = accept ? (s.lands[r] ? goal : t + h) : t;
    const double smallest = std::abs(t) * s.spacing, floor = s.floor[r];
    s.t_next[r] = t_next, s.h_next[r] = next;
    s.limit_next[r] = fits ? s.most : 1;
    s.accept[r] = accept;
    const bool stuck = running && std::abs(grown) <= (smallest > floor ? smallest : floor);
    const bool runs_on = running && t_next != goal;
    s.stuck[r] = stuck, s.runs_on[r] = runs_on;
    found.going += runs_on, found.failing |= stuck;
    const double remaining = goal - t_next;
    const bool lands = remaining / next <= 1 + s.slack;
    s.lands_next[r] = lands, s.h_tried[r] = lands ? remaining : next;
    s.n_steps[r] += running, s.nfev[r] += running ? s.evaluations : 0;
  }
  return found;
}

}  // namespace thalweg::THALWEG_ISA
