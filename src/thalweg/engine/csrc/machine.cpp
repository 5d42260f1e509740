// What this machine can run.

#include "isa.hpp"

namespace thalweg {

std::vector<const Isa*> available() {
  std::vector<const Isa*> isas{&baseline::isa};
#ifdef THALWEG_X86_64
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(&avx2::isa);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw")) {
    isas.push_back(&avx512_narrow::isa);
    isas.push_back(&avx512::isa);
  }
#endif
  return isas;
}

}  // namespace thalweg
