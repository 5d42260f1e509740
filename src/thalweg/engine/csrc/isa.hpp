// What the engine offers for one set of instructions, as a table of functions: it is compiled once for each.
//
// The tables are constants, never initialised at run time: code for a wide register must not run, even once, on a
// machine that lacks it.

#pragma once

#include <cstddef>
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

struct Isa {
  const char* name;
  void (*unary_float)(Unary function, const float* in, float* out, std::size_t n);
  void (*unary_double)(Unary function, const double* in, double* out, std::size_t n);
  void (*binary_float)(Binary function, const float* first, const float* second, float* out, std::size_t n);
  void (*binary_double)(Binary function, const double* first, const double* second, double* out, std::size_t n);
  // What it returns is for the way back, and the caller's; null where nothing is recorded.
  Tape<float>* (*explicit_float)(std::shared_ptr<const Program>, const ExplicitMethod&, const Control&, Task<float>);
  Tape<double>* (*explicit_double)(std::shared_ptr<const Program>, const ExplicitMethod&, const Control&, Task<double>);
  void (*rosenbrock_float)(const Program&, const RosenbrockMethod&, const Control&, Task<float>);
  void (*rosenbrock_double)(const Program&, const RosenbrockMethod&, const Control&, Task<double>);
};

namespace baseline {
extern const Isa isa;
}
#ifdef THALWEG_X86_64
namespace avx2 {
extern const Isa isa;
}
namespace avx512 {
extern const Isa isa;
}
#endif

// Those that this machine can run, the widest last.
std::vector<const Isa*> available();

}  // namespace thalweg
