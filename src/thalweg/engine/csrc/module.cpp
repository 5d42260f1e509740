// The extension module thalweg.engine._native: it chooses the set of instructions and hands pointers on.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.hpp"

namespace nb = nanobind;

namespace thalweg {
namespace {

// Those that this machine can run, the widest last.
std::vector<const Isa*> available() {
  std::vector<const Isa*> isas{&baseline::isa};
#ifdef THALWEG_X86_64
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(&avx2::isa);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    isas.push_back(&avx512::isa);
#endif
  return isas;
}

const Isa& named(const std::string& name) {
  std::string names;
  for (const Isa* isa : available()) {
    if (name == isa->name) return *isa;
    names += (names.empty() ? "" : ", ") + std::string(isa->name);
  }
  throw std::invalid_argument("'" + name + "' is no set of instructions of this machine; it has " + names);
}

// THALWEG_ISA of the environment, else the widest.
const Isa& chosen() {
  const char* name = std::getenv("THALWEG_ISA");
  static const Isa& isa = name ? named(name) : *available().back();
  return isa;
}

std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const Isa* isa : available()) names.emplace_back(isa->name);
  return names;
}

Unary function_named(const std::string& name) {
#define X(function) \
  if (name == #function) return Unary::function##_;
  THALWEG_UNARY(X)
#undef X
  throw std::invalid_argument("'" + name + "' is no elementary function of the engine");
}

void unary(const std::string& name, const std::string& isa, const std::string& dtype, std::uintptr_t in,
           std::uintptr_t out, std::size_t n) {
  const Unary function = function_named(name);
  if (dtype == "float32")
    named(isa).unary_float(function, reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), n);
  else if (dtype == "float64")
    named(isa).unary_double(function, reinterpret_cast<const double*>(in), reinterpret_cast<double*>(out), n);
  else
    throw std::invalid_argument("dtype is '" + dtype + "'; the engine has float32 and float64");
}

}  // namespace
}  // namespace thalweg

NB_MODULE(_native, m) {
  using namespace thalweg;
  m.def("isa", [] { return std::string(chosen().name); });
  m.def("isas", names);
  m.def("unary", unary, nb::arg("name"), nb::arg("isa"), nb::arg("dtype"), nb::arg("input"), nb::arg("output"),
        nb::arg("n"));
}
