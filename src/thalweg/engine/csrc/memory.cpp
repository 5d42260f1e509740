// Memory for what is recorded: it is kept for the next solve, as the system takes its time to hand out pages.

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
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
std::atomic<bool> poisonous{false};

// The chunks that nobody uses, while this one has the lock. A fork waits for it, as the child would wait for ever for a
// thread that holds it and is not there.
std::vector<Chunk>& chunks(const std::lock_guard<std::mutex>&) {
  if (!unused) {
    unused = new std::vector<Chunk>;
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
  }
  return *unused;
}

Chunk found_or_made(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex);
    std::vector<Chunk>& found = chunks(lock);
    for (std::size_t i = found.size(); i-- > 0;) {  // the last is the likeliest in a cache
      const Chunk chunk = found[i];
      if (chunk.bytes < bytes || chunk.bytes > 4 * bytes) continue;
      found[i] = found.back();
      found.pop_back();
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

}  // namespace

Chunk take_chunk(std::size_t bytes) {
  const Chunk chunk = found_or_made(bytes);
  if (poisoned()) fill_with_nan(chunk.memory, chunk.bytes);
  return chunk;
}

void give_chunk(Chunk chunk) {
  {
    const std::lock_guard lock(mutex);
    if (unused_bytes + chunk.bytes <= KEPT) {
      chunks(lock).push_back(chunk);
      unused_bytes += chunk.bytes;
      return;
    }
  }
  std::free(chunk.memory);
}

void poison(bool on) { poisonous.store(on, std::memory_order_relaxed); }

bool poisoned() { return poisonous.load(std::memory_order_relaxed); }

// All bits set: NaN in either dtype, -1 in whole numbers, and nowhere as a pointer.
void fill_with_nan(void* memory, std::size_t bytes) {
  if (bytes) std::memset(memory, 0xff, bytes);
}

}  // namespace thalweg
