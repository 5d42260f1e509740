// Threads that wait for work: awake for a short while after some, for the next is mostly near, and asleep then.

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
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

// Jobs are numbered, and job n is for thread n, as what it works with may still be in that core's cache. The caller is
// thread 0, and does at last what nobody has begun: where the others sleep or their cores are busy, a short solve does not
// wait for them.
class Pool {
public:
  void run(int count, void (*f)(void*, int), void* context, Interruption* interruption) {
    const std::lock_guard one(turn_);  // one caller at a time
    while (static_cast<int>(posts_.size()) < count - 1) {
      posts_.push_back(std::make_unique<Post>());
      std::thread([this, number = static_cast<int>(posts_.size()), &post = *posts_.back()] { serve(number, post); }).detach();
    }
    for (int i = 1; i < count; ++i) {
      Post& post = *posts_[i - 1];
      post.f = f, post.context = context;
      post.job.store(Job::open);
    }
    if (sleeping_.load() > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    call(f, context, 0);
    for (int i = 1; i < count; ++i)
      if (posts_[i - 1]->moves(Job::open, Job::done)) call(f, context, i);
    int spins = 0;
    for (int i = 1; i < count; ++i)
      while (!posts_[i - 1]->moves(Job::done, Job::none))
        if (++spins < SPINS) {
          breathe();
        } else {
          if (interruption) interruption->look();
          std::this_thread::yield();
        }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

private:
  enum class Job { none, open, begun, done };

  // Where a thread finds its job: one line of the cache, for each look at another core's takes time.
  struct alignas(64) Post {
    std::atomic<Job> job{Job::none};
    void (*f)(void*, int) = nullptr;
    void* context = nullptr;

    bool moves(Job from, Job to) {
      return job.load(std::memory_order_relaxed) == from && job.compare_exchange_strong(from, to);
    }
  };

  void call(void (*f)(void*, int), void* context, int number) {
    try {
      f(context, number);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  void serve(int number, Post& post) {
    for (;;) {
      for (int spins = 0; !post.moves(Job::open, Job::begun); ++spins) {
        if (spins < SPINS) {
          breathe();
          continue;
        }
        std::unique_lock lock(mutex_);
        sleeping_.fetch_add(1);  // before it looks once more: either it sees the job, or the caller sees it asleep
        wake_.wait(lock, [&] { return post.job.load() == Job::open; });
        sleeping_.fetch_sub(1);
      }
      call(post.f, post.context, number);
      post.job.store(Job::done, std::memory_order_release);
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Post>> posts_;  // of the threads 1, 2, …
  std::atomic<int> sleeping_{0};
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
