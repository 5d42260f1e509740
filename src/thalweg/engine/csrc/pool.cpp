// Threads that wait for work: awake for a short while after some, for the next is mostly near, and asleep then.

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "solve.hpp"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace thalweg {

namespace {

constexpr int SPINS = 20'000;  // tens of microseconds

void breathe() {
#ifdef __x86_64__
  _mm_pause();
#endif
}

class Pool {
public:
  void run(int count, void (*f)(void*, int), void* context, Interruption* interruption) {
    const std::lock_guard one(turn_);  // one caller at a time
    while (static_cast<int>(threads_.size()) < count - 1) {
      const int number = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back([this, number, seen = generation_.load()] { serve(number, seen); });
    }
    f_ = f;
    context_ = context;
    count_ = count;
    left_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    call(0);
    for (int spins = 0; left_.load(std::memory_order_acquire) > 0;)
      if (++spins < SPINS) {
        breathe();
      } else {
        if (interruption) interruption->look();
        std::this_thread::yield();
      }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

private:
  void call(int number) {
    try {
      f_(context_, number);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  void serve(int number, std::uint64_t seen) {
    for (;;) {
      for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins < SPINS) {
          breathe();
          continue;
        }
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        sleeping_.fetch_sub(1);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (number < count_) call(number);
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> left_{0}, sleeping_{0};
  void (*f_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
  std::exception_ptr error_;
};

// Never destroyed: at the end of the process its threads may be gone already. After a fork there are none, and the child
// makes a pool of its own.
Pool* pool = nullptr;
std::mutex making;

// A fork waits for the lock, as the child would wait for ever for a thread that holds it and is not there.
void mind_forks() {
  pthread_atfork([] { making.lock(); }, [] { making.unlock(); },
                 [] {
                   pool = nullptr;
                   making.unlock();
                 });
}

Pool& the_pool() {
  const std::lock_guard lock(making);
  static const bool minded = (mind_forks(), true);
  (void)minded;
  if (!pool) pool = new Pool;
  return *pool;
}

}  // namespace

void parallel(int count, void (*f)(void* context, int i), void* context, Interruption* interruption) {
  if (count <= 1) {
    if (count == 1) f(context, 0);
    return;
  }
  the_pool().run(count, f, context, interruption);
}

}  // namespace thalweg
