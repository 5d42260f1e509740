// What a solve is asked and what it leaves: plain data, shared by all sets of instructions.

#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "program.hpp"

namespace thalweg {

// What the loop knows of any method: row i of `interpolant` has the coefficients of θ, θ², … for stage i.
struct Method {
  int stages = 0;
  double error_order = 1;
  std::vector<std::vector<double>> interpolant;
};

// An explicit Runge–Kutta method, as `Tableau` of methods/tableau.py: row i of `a` has the i coefficients of stage i, and the
// extra stages of the interpolant come after the others.
struct ExplicitMethod : Method {
  int extra = 0;
  bool fsal = false;
  std::vector<double> c;                     // of all stages, extra ones too
  std::vector<std::vector<double>> a;        // rows of all stages
  std::vector<double> b, b_error, b_coarse;  // the errors may be missing
};

// A Rosenbrock method, as that of methods/rosenbrock.py.
struct RosenbrockMethod : Method {
  double gamma = 1;
  std::vector<double> alpha, gamma_sums;  // the nodes; the weights of the derivative by time
  std::vector<std::vector<double>> a, c;
  std::vector<double> m, m_error;
};

// How steps are chosen, as `PID` of stepsize/controllers.py; not adaptive: steps of the first one's size.
struct Control {
  bool adaptive = true, joint = false;
  double p = 0, i = 1, d = 0, safety = 0.9, least = 0.2, most = 10;
  double first_step = std::numeric_limits<double>::quiet_NaN();  // NaN: chosen from the field
  double max_step = std::numeric_limits<double>::infinity(), min_step = 0;
  std::int64_t max_steps = 10000;
  // Of joint steps: the row behind each part of the state whose error counts alone, the largest for all. Empty: one part.
  std::vector<int> parts;
};

// Numbers with a step between those of one sample and the next, 0 where all share one.
struct PerSample {
  const double* numbers = nullptr;
  std::ptrdiff_t step = 0;

  double operator[](std::int64_t sample) const { return numbers[sample * step]; }
};

// What a solve ends with where a person wants it to stop.
struct Interrupted {};

// Whether a person wants that: the thread that called asks now and then, and the others hear of it.
class Interruption {
public:
  explicit Interruption(bool (*asked)()) : asked_(asked) {}

  // Between two steps of a thread; `caller` where it is the one that called.
  void heed(bool caller) {
    if (caller && ++heeded_ % 8 == 0) look();
    if (wanted_.load(std::memory_order_relaxed)) throw Interrupted();
  }
  void look() {
    const auto now = Clock::now();
    if (now < next_) return;
    next_ = now + period;
    if (asked_()) wanted_.store(true, std::memory_order_relaxed);
  }

private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds period{200};  // to ask may mean to wait for Python's lock
  bool (*asked_)();
  std::atomic<bool> wanted_{false};
  unsigned heeded_ = 0;
  Clock::time_point next_ = Clock::now() + period;
};

inline void heed(Interruption* interruption, bool caller) {
  if (interruption) interruption->heed(caller);
}

// Who wants to look inside of steps: each that a sample accepts is noted, in parts of which no two threads write one at a
// time.
template <class T>
struct Trail {
  virtual ~Trail() = default;
  virtual void parts(int count) = 0;
  // Room for the state where the step begins, and then for each slope that the interpolant weights.
  virtual T* note(int part, std::int64_t sample, double t, double h) = 0;
};

template <class T>
struct Task {
  std::int64_t batch = 0;
  const T* y0 = nullptr;                // (batch, D)
  PerSample t0, t1;
  const double* t_eval = nullptr;       // null: the ends alone
  std::int64_t outputs = 2;             // how many
  std::ptrdiff_t output_step = 0, sample_step = 0;  // t_eval[o output_step + s sample_step]
  std::vector<const T*> own;            // arguments of each sample: (batch, rows)
  std::vector<const T*> shared;         // numbers of each shared tensor
  const T* rtol = nullptr;              // of each entry of the state, or of all
  const T* atol = nullptr;
  int rtol_step = 0, atol_step = 0;
  int threads = 1;
  Interruption* interruption = nullptr;  // null where nobody can interrupt

  T* ys = nullptr;                      // (outputs, batch, D)
  std::int64_t *status = nullptr, *n_steps = nullptr, *n_accepted = nullptr;  // (batch)
  std::int64_t *nfev = nullptr, *njev = nullptr, *nlu = nullptr;              // (batch)
  double *t_end = nullptr, *h_end = nullptr;                                  // (batch)

  bool record = false;                  // whether the way back will be asked for
  std::int64_t memory_limit = 0;        // bytes of stages that may be kept for it
  bool times_wanted = false;            // whether it may be asked for gradients to times
  Trail<T>* trail = nullptr;            // null where nobody looks inside of steps
};

// Where gradients are written. Null where none is wanted.
template <class T>
struct Back {
  const T* cotangent = nullptr;         // (outputs, batch, D)
  T* y0 = nullptr;                      // (batch, D)
  double *t0 = nullptr, *t1 = nullptr;  // (batch)
  double* t_eval = nullptr;             // (outputs, batch)
  std::vector<T*> own;                  // (batch, rows)
  std::vector<T*> shared;               // shaped as the tensors
  Interruption* interruption = nullptr;
  std::int64_t nfev = 0;                // evaluations of the way back, a sample
};

// What a recorded solve keeps for its way back.
template <class T>
struct Tape {
  virtual ~Tape() = default;
  virtual void pull_back(Back<T>& back) = 0;
  virtual std::int64_t bytes() const = 0;
};

enum class Status : std::int64_t { success = 0, max_steps = 1, step_underflow = 2, nonfinite = 3 };

// Memory for what is recorded: it is kept for the next solve, as the system takes its time to hand out pages.
struct Chunk {
  void* memory;
  std::size_t bytes;
};
Chunk take_chunk(std::size_t bytes);
void give_chunk(Chunk chunk);

// For tests: from now on memory is handed out full of NaN, so that what is read before it is written shows.
void poison(bool on);
bool poisoned();
void fill_with_nan(void* memory, std::size_t bytes);

// Runs f(context, i) for i in [0, count), each on a thread of its own, and waits; the caller is thread 0.
void parallel(int count, void (*f)(void* context, int i), void* context, Interruption* interruption);

template <class F>
void parallel(int count, Interruption* interruption, F&& f) {
  parallel(count, [](void* context, int i) { (*static_cast<std::remove_reference_t<F>*>(context))(i); }, &f, interruption);
}

}  // namespace thalweg
