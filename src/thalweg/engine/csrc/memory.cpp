// Memory for what is recorded: it is kept for the next solve, as the system takes its time to hand out pages.

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "solve.hpp"

namespace thalweg {

namespace {

constexpr std::size_t KEPT = std::size_t(1) << 28;  // bytes at most, of those that nobody uses
constexpr std::size_t HUGE_PAGE = std::size_t(1) << 21;

std::mutex mutex;
std::vector<Chunk>* unused = nullptr;  // never destroyed: a recording may outlive this file's other objects
std::size_t unused_bytes = 0;

}  // namespace

Chunk take_chunk(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex);
    if (unused)
      for (std::size_t i = unused->size(); i-- > 0;) {  // the last is the likeliest in a cache
        const Chunk chunk = (*unused)[i];
        if (chunk.bytes < bytes || chunk.bytes > 4 * bytes) continue;
        (*unused)[i] = unused->back();
        unused->pop_back();
        unused_bytes -= chunk.bytes;
        return chunk;
      }
  }
  const std::size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
  bytes = (bytes + unit - 1) / unit * unit;
  void* memory = std::aligned_alloc(unit, bytes);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (unit == HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return {memory, bytes};
}

void give_chunk(Chunk chunk) {
  {
    const std::lock_guard lock(mutex);
    if (!unused) unused = new std::vector<Chunk>;
    if (unused_bytes + chunk.bytes <= KEPT) {
      unused->push_back(chunk);
      unused_bytes += chunk.bytes;
      return;
    }
  }
  std::free(chunk.memory);
}

}  // namespace thalweg
