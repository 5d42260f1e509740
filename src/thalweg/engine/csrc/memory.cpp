// Memory for what is recorded: it is kept for the next solve, as the system takes its time to hand out pages. What was not
// used for longest goes first, for solves of another size need chunks of another one.

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
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
// The last is the one used last. Never destroyed: a recording may outlive this file's other objects.
std::deque<Chunk>* unused = nullptr;
std::size_t unused_bytes = 0;
std::atomic<bool> poisonous{false};

// The chunks that nobody uses, while this one has the lock. A fork waits for it, as the child would wait for ever for a
// thread that holds it and is not there.
std::deque<Chunk>& chunks(const std::lock_guard<std::mutex>&) {
  if (!unused) {
    unused = new std::deque<Chunk>;
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
  }
  return *unused;
}

Chunk found_or_made(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex);
    std::deque<Chunk>& found = chunks(lock);
    for (std::size_t i = found.size(); i-- > 0;) {  // the last is the likeliest in a cache
      const Chunk chunk = found[i];
      if (chunk.bytes < bytes || chunk.bytes > 4 * bytes) continue;
      found.erase(found.begin() + static_cast<std::ptrdiff_t>(i));
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
  std::vector<void*> surplus;  // given back without the lock
  {
    const std::lock_guard lock(mutex);
    std::deque<Chunk>& kept = chunks(lock);
    kept.push_back(chunk);
    unused_bytes += chunk.bytes;
    for (; unused_bytes > KEPT; kept.pop_front()) {
      unused_bytes -= kept.front().bytes;
      surplus.push_back(kept.front().memory);
    }
  }
  for (void* memory : surplus) std::free(memory);
}

void poison(bool on) { poisonous.store(on, std::memory_order_relaxed); }

bool poisoned() { return poisonous.load(std::memory_order_relaxed); }

// All bits set: NaN in either dtype, -1 in whole numbers, and nowhere as a pointer.
void fill_with_nan(void* memory, std::size_t bytes) {
  if (bytes) std::memset(memory, 0xff, bytes);
}

}  // namespace thalweg
