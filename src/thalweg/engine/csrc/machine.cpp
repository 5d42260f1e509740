// What this machine can run.

#include "isa.hpp"

namespace thalweg {

std::vector<const Isa*> available() {
  std::vector<const Isa*> isas;
  const auto add = [&](const Isa& isa) {
    for (const Isa* one : {isa.narrow, isa.wide, &isa})
      if (one) isas.push_back(one);
  };
  add(baseline::isa);
#ifdef THALWEG_X86_64
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2::isa);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    add(avx512::isa);
#endif
  return isas;
}

}  // namespace thalweg
