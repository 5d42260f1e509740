// What the engine offers for one set of instructions, as a table of functions: it is compiled once for each.
//
// The tables are constants, never initialised at run time: code for a wide register must not run, even once, on a
// machine that lacks it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "solve.hpp"

// The elementary functions, by the names that programs use for them.
#define THALWEG_UNARY(X)                                                                                        \
  X(exp) X(exp2) X(expm1) X(log) X(log2) X(log1p) X(sin) X(cos) X(tanh) X(sigmoid) X(erf) X(gelu) X(gelu_tanh) \
  X(silu) X(softplus) X(sqrt) X(abs) X(erfc) X(erfinv) X(lgamma) X(digamma) X(trigamma) X(floor) X(round)
#define THALWEG_BINARY(X) X(pow) X(fmod) X(remainder) X(atan2) X(copysign)

namespace thalweg {

enum class Unary {
#define X(name) name##_,
  THALWEG_UNARY(X)
#undef X
};

enum class Binary {
#define X(name) name##_,
  THALWEG_BINARY(X)
#undef X
};

// What the loop in Python asks for, see sums.hpp.
template <class T>
struct Sums {
  void (*sum_stages)(const T* stages, std::size_t n, const T* weights, int count, const T* base, const T* sizes, T size,
                     T* out);
  void (*measure)(T* x, const T* y, const T* z, T atol, T rtol, std::size_t rows, std::size_t entries, double* out);
  void (*spread)(const double* sizes, std::size_t rows, std::size_t entries, T* out);
  void (*stage_times)(const double* t, const double* h, const double* c, std::size_t count, std::size_t rows, T* out);
};

// A step of each row that was tried, and what becomes of it, as loop/integrate.py has it. Flags are bytes, 0 or 1.
struct Settling {
  // the same for all rows: those of the controller, the power of the error, the size of a step that is none beside a time,
  // how near its end a step ends there, and the evaluations that a step took
  double safety, least, most, power, spacing, slack;
  std::int64_t evaluations;
  // of each row: the step, its error, where it aims, whether it ends there, its size before it was cut to do so, the least
  // there may be, and the most that sizes may grow
  const double *t, *h, *error, *goal, *proposed, *floor, *limit;
  const std::uint8_t *lands, *running;
  // what comes of it: the next step, as it is proposed and as it is tried
  double *t_next, *h_next, *limit_next, *h_tried;
  std::uint8_t *accept, *runs_on, *stuck, *lands_next;
  std::int64_t *n_steps, *nfev;  // counted on
};

// How many rows run on, and whether any is stuck.
struct Settled {
  std::size_t going;
  bool failing;
};

struct Isa {
  const char* name;
  // How many samples a tile carries, and the same instructions by tiles of half as many and of twice as many; null where
  // there are none.
  int lanes_float, lanes_double;
  const Isa *narrow, *wide;
  void (*unary_float)(Unary function, const float* in, float* out, std::size_t n);
  void (*unary_double)(Unary function, const double* in, double* out, std::size_t n);
  void (*binary_float)(Binary function, const float* first, const float* second, float* out, std::size_t n);
  void (*binary_double)(Binary function, const double* first, const double* second, double* out, std::size_t n);
  // What it returns is for the way back, and the caller's; null where nothing is recorded.
  Tape<float>* (*explicit_float)(std::shared_ptr<const Program>, const ExplicitMethod&, const Control&, Task<float>);
  Tape<double>* (*explicit_double)(std::shared_ptr<const Program>, const ExplicitMethod&, const Control&, Task<double>);
  void (*rosenbrock_float)(const Program&, const RosenbrockMethod&, const Control&, Task<float>);
  void (*rosenbrock_double)(const Program&, const RosenbrockMethod&, const Control&, Task<double>);
  Sums<float> sums_float;
  Sums<double> sums_double;
  Settled (*settle)(const Settling& step, std::size_t rows);
};

#define THALWEG_DECLARE(name) \
  namespace name {            \
  extern const Isa isa;       \
  }
THALWEG_DECLARE(baseline)
#ifdef THALWEG_X86_64
THALWEG_DECLARE(avx2)
THALWEG_DECLARE(avx2_wide)
THALWEG_DECLARE(avx512)
THALWEG_DECLARE(avx512_narrow)
THALWEG_DECLARE(avx512_wide)
#else
THALWEG_DECLARE(baseline_wide)
#endif
#undef THALWEG_DECLARE

// Those that this machine can run, the one to take by itself last.
std::vector<const Isa*> available();

}  // namespace thalweg
