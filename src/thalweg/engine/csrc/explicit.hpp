// Explicit Runge–Kutta methods: the loop, for tiles of samples, and the exact gradient of what it did, back.
//
// Each sample has steps of its own. A lane whose sample has ended takes the next one, so that no lane waits. The
// decisions are those of loop/integrate.py, one for one: a count or a status that differs from its is a fault.
//
// Rows of the state lie under each other, a row being `lanes` numbers; times and sizes are float64 throughout.

#pragma once

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "kernels.hpp"
#include "solve.hpp"

namespace thalweg::THALWEG_ISA {

inline constexpr double slack = 1e-6;  // a step that ends this near t1, relative to its size, ends there
inline constexpr double spacing = 10 * 0x1p-52;
inline constexpr double telling = 0.1;  // the least error of an earlier step that says how errors go on

// Memory of its own, aligned for any register; not initialised.
template <class X>
class Array {
public:
  Array() = default;
  explicit Array(std::size_t count) { resize(count); }
  Array(Array&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr, other.count_ = 0; }
  Array& operator=(Array&& other) noexcept {
    X* data = data_;
    data_ = other.data_, count_ = other.count_;
    other.data_ = nullptr, other.count_ = 0;
    std::free(data);
    return *this;
  }
  ~Array() { std::free(data_); }

  // What was there is lost.
  void resize(std::size_t count) {
    std::free(data_);
    data_ = nullptr;
    count_ = count;
    const std::size_t bytes = (count * sizeof(X) + 63) / 64 * 64;
    if (bytes && !(data_ = static_cast<X*>(std::aligned_alloc(64, bytes)))) throw std::bad_alloc();
    if (poisoned()) fill_with_nan(data_, bytes);
  }
  void zero() {
    if (data_) std::memset(static_cast<void*>(data_), 0, count_ * sizeof(X));
  }
  // Zeros for lanes without a sample, whose numbers count for nothing: any would do, but some are slow.
  void calm() {
    if (!poisoned()) zero();
  }

  X* data() const { return data_; }
  std::size_t size() const { return count_; }
  X& operator[](std::size_t i) const { return data_[i]; }

private:
  X* data_ = nullptr;
  std::size_t count_ = 0;
};

// Rows, one after the other.
template <class T>
void copy_rows(const T* from, T* to, int rows) {
  std::memcpy(to, from, sizeof(T) * static_cast<std::size_t>(rows) * lanes<T>);
}

template <class T>
void zero_rows(T* to, int rows) {
  std::memset(to, 0, sizeof(T) * static_cast<std::size_t>(rows) * lanes<T>);
}

// A column of a tile, from or to contiguous numbers of one sample.
template <class T>
void put_column(const T* from, T* rows, int lane, int count) {
  for (int i = 0; i < count; ++i) rows[i * lanes<T> + lane] = from[i];
}

template <class T>
void take_column(const T* rows, int lane, T* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = rows[i * lanes<T> + lane];
}

// What all tiles of a solve share: made once, and read by all threads.
template <class T>
struct Plan {
  const Program& program;
  const Method& method;
  const Control& control;
  const Task<T>& task;
  Array<T> packed;                          // panels of all weights, and of their transposes
  Array<const T*> panels, transposed;       // of each instruction
  Shared<T> shared;
  Array<T> a, b, b_error, b_coarse, c_rows; // coefficients as T: row i of `a` starts at i * all
  int all;                                  // stages, extra ones too

  Plan(const Program& program, const Method& method, const Control& control, const Task<T>& task)
      : program(program), method(method), control(control), task(task), all(method.stages + method.extra) {
    pack_weights();
    a.resize(static_cast<std::size_t>(all) * all);
    a.zero();
    for (int i = 0; i < all; ++i)
      for (std::size_t j = 0; j < method.a[i].size(); ++j) a[static_cast<std::size_t>(i) * all + j] = static_cast<T>(method.a[i][j]);
    const auto cast = [](const std::vector<double>& from, Array<T>& to) {
      to.resize(from.size());
      for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<T>(from[i]);
    };
    cast(method.b, b);
    cast(method.b_error, b_error);
    cast(method.b_coarse, b_coarse);
  }

private:
  void pack_weights() {
    std::size_t total = 0;
    const std::size_t count = program.code.size();
    const auto entries = [](const Instruction& code) {  // rounded up, so that each begins at a cache line
      return (static_cast<std::size_t>(code.index[1]) * code.index[2] + 15) / 16 * 16;
    };
    for (const Instruction& code : program.code)
      if (code.op == Op::linear) total += entries(code) * (task.record ? 2 : 1);
    packed.resize(total);
    panels.resize(count);
    transposed.resize(count);
    T* at = packed.data();
    for (std::size_t i = 0; i < count; ++i) {
      const Instruction& code = program.code[i];
      panels[i] = transposed[i] = nullptr;
      if (code.op != Op::linear) continue;
      const int rows = code.index[1], columns = code.index[2];
      const T* weight = task.shared[code.operands[1].number] + code.operands[1].row;
      pack(weight, rows, columns, columns, 1, at);
      panels[i] = at;
      at += entries(code);
      if (!task.record) continue;
      pack(weight, columns, rows, 1, columns, at);
      transposed[i] = at;
      at += entries(code);
    }
    shared = {task.shared.data(), panels.data(), transposed.data()};
  }
};

// One accepted step of a tile, as it is kept for the way back. Behind it lie the numbers: the state (D rows) and the slope
// (D) it began with, and where `full`, for each stage that was evaluated, its time (1), state (D), slope (D), and what
// the program saved.
template <class T>
struct Block {
  static constexpr int L = lanes<T>;
  double t[L], h[L];
  std::int32_t sample[L];              // -1 where the step was not accepted
  std::int32_t donor[L];               // the lane whose numbers stand here where it was not
  std::int32_t first_output[L], end_output[L];
  bool last[L];                        // whether the step ends at t1
  bool full, extended;                 // whether stages are kept; whether the extra ones were evaluated
  T* rows;
};

// Blocks of a thread, in the order of its steps.
template <class T>
class Blocks {
public:
  ~Blocks() { clear(); }
  Blocks() = default;
  Blocks(Blocks&&) = delete;

  // Room for one more block, which is not there yet until `keep`.
  Block<T>* open(std::size_t rows) {
    const std::size_t bytes = (sizeof(Block<T>) + 63) / 64 * 64 + rows * lanes<T> * sizeof(T);
    if (chunks_ == 0 || used_ + bytes > capacity_) {
      // twice as much each time, for a solve of few steps should not hold much
      const std::size_t more = chunks_ == 0 ? 2 * bytes : capacity_ < most_bytes ? 2 * capacity_ : capacity_;
      const Chunk chunk = take_chunk(more > bytes ? more : bytes);
      push(memory_, chunks_, chunk_capacity_, chunk);
      capacity_ = chunk.bytes;
      used_ = 0;
      total_ += static_cast<std::int64_t>(capacity_);
    }
    char* const memory = static_cast<char*>(memory_[chunks_ - 1].memory) + used_;
    auto* block = reinterpret_cast<Block<T>*>(memory);
    block->rows = reinterpret_cast<T*>(memory + (sizeof(Block<T>) + 63) / 64 * 64);
    opened_ = bytes;
    return block;
  }
  void keep(Block<T>* block) {
    used_ += opened_;
    push(blocks_, count_, block_capacity_, block);
  }
  int count() const { return count_; }
  Block<T>& operator[](int i) const { return *blocks_[i]; }
  std::int64_t bytes() const { return total_; }

private:
  static constexpr std::size_t most_bytes = std::size_t(1) << 22;

  template <class X>
  static void push(X*& items, int& count, int& capacity, X item) {
    if (count == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      X* more = static_cast<X*>(std::realloc(static_cast<void*>(items), sizeof(X) * static_cast<std::size_t>(capacity)));
      if (!more) throw std::bad_alloc();
      items = more;
    }
    items[count++] = item;
  }
  void clear() {
    for (int i = 0; i < chunks_; ++i) give_chunk(memory_[i]);
    std::free(static_cast<void*>(memory_));
    std::free(static_cast<void*>(blocks_));
  }

  Chunk* memory_ = nullptr;
  Block<T>** blocks_ = nullptr;
  int chunks_ = 0, chunk_capacity_ = 0, count_ = 0, block_capacity_ = 0;
  std::size_t used_ = 0, capacity_ = 0, opened_ = 0;
  std::int64_t total_ = 0;
};

// The rows of every stage of one step: where each is evaluated, and what it gave.
template <class T>
struct Stages {
  Array<T*> time, state, slope, saved;

  explicit Stages(int all) : time(all), state(all), slope(all), saved(all) {}

  // Lets all stages from `first` on lie in a block behind its state and slope; earlier ones have no rows but these.
  void lie_in(const Plan<T>& plan, const Block<T>& block, int first) {
    const std::ptrdiff_t state_rows = static_cast<std::ptrdiff_t>(plan.program.dimension) * lanes<T>;
    const std::ptrdiff_t saved_rows = static_cast<std::ptrdiff_t>(plan.program.record.saved) * lanes<T>;
    T* at = block.rows;
    state[0] = at;
    slope[0] = at + state_rows;
    at += 2 * state_rows;
    for (int i = first; i < plan.all; ++i) {
      time[i] = at;
      at += lanes<T>;
      if (i > 0) {
        state[i] = at;
        at += state_rows;
        slope[i] = at;
        at += state_rows;
      }
      saved[i] = at;
      at += saved_rows;
    }
  }
  static std::size_t rows_of(const Plan<T>& plan, int first, bool full) {
    const std::size_t each = 1 + 2 * static_cast<std::size_t>(plan.program.dimension) + plan.program.record.saved;
    return 2 * static_cast<std::size_t>(plan.program.dimension) + (full ? each * (plan.all - first) : 0);
  }
};

// to = y + h sum_j w_j k_j
template <class T>
void combine(const T* y, const T* const* k, const T* weights, int count, const T* h, T* to, int rows) {
  constexpr int L = lanes<T>, W = Vec<T>::lanes;
  Vec<T> size[row_registers];
  const T* term[64];
  T weight[64];
  int terms = 0;
  for (int j = 0; j < count; ++j)
    if (weights[j] != T(0)) term[terms] = k[j], weight[terms++] = weights[j];
  for (int j = 0; j < row_registers; ++j) size[j] = Vec<T>::load(h + j * W);
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 2
    for (int j = 0; j < row_registers; ++j) {
      const int at = row * L + j * W;
      Vec<T> sum(T(0));
      for (int n = 0; n < terms; ++n) sum += Vec<T>::load(term[n] + at) * weight[n];
      (Vec<T>::load(y + at) + sum * size[j]).store(to + at);
    }
}

// One thread's tile and what it works with.
template <class T>
class Tile {
public:
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;

  // `blocks` where steps are recorded.
  Tile(const Plan<T>& plan, Blocks<T>* blocks)
      : plan_(plan), blocks_(blocks), D(plan.program.dimension), S(plan.method.stages), first_(plan.method.fsal ? 1 : 0),
        layout_(blocks ? plan.program.record : plan.program.plain), stages_(plan.all) {
    const std::size_t state = static_cast<std::size_t>(D) * L;
    // y, its slope, the error's rows; a waiting tile's y and slope; the stages where they are not recorded
    numbers_.resize(state * (4 + 2) + static_cast<std::size_t>(plan.program.own) * L * 2 +
                    (blocks ? 0 : state * (plan.all + 1) + L) + static_cast<std::size_t>(layout_.scratch + 1) * L + 2 * L);
    T* at = numbers_.data();
    const auto take = [&](std::size_t count) { return std::exchange(at, at + count); };
    y_ = take(state), carried_ = take(state), new_y_ = take(state), spare_ = take(state);
    waiting_y_ = take(state), waiting_slope_ = take(state);
    own_ = take(static_cast<std::size_t>(plan.program.own) * L), waiting_own_ = take(static_cast<std::size_t>(plan.program.own) * L);
    if (!blocks) {
      T* time = take(L);
      T* between = take(state);
      for (int i = 0; i < plan.all; ++i) {
        stages_.time[i] = time;
        stages_.state[i] = i < S ? between : spare_;  // what the step ends at is needed after the extra stages
        stages_.slope[i] = i == 0 ? carried_ : take(state);
        stages_.saved[i] = nullptr;
      }
    }
    scratch_ = take(static_cast<std::size_t>(layout_.scratch + 1) * L);
    size_ = take(L), time_ = take(L);
    for (int l = 0; l < L; ++l) sample_[l] = -1, h_[l] = t_[l] = t1_[l] = direction_[l] = 0, limit_[l] = before_[l] = two_before_[l] = 1;
    numbers_.calm();
  }

  // Carries the samples that `next` hands out: next(first, end) gives some that lie side by side, at most L, or none.
  template <class Next>
  void run(Next next) {
    waiting_ = waiting_end_ = 0;
    bool more = true;
    for (;;) {
      bool any = false;
      for (int l = 0; l < L; ++l) {
        while (sample_[l] < 0 && more) {
          if (waiting_ == waiting_end_ && !(more = fetch(next))) break;
          begin(l);
        }
        any |= sample_[l] >= 0;
      }
      if (!any) return;
      attempt();
      double error[L];
      for (int l = 0; l < L; ++l) error[l] = relative(squares_[l], squares_[L + l], D);
      settle(error);
    }
  }

  // What follows is for tiles whose samples step together: a step of all is settled by one error.

  // Takes the samples [first, end), at most L, and evaluates the slope where the method or the first step needs it.
  void load(std::int64_t first, std::int64_t end) {
    const Task<T>& task = plan_.task;
    waiting_first_ = first;
    waiting_ = 0;
    waiting_end_ = static_cast<int>(end - first);
    for (int l = 0; l < L; ++l) {
      const std::int64_t s = first + (l < waiting_end_ ? l : 0);  // lanes without a sample repeat the first
      put_column(task.y0 + s * D, waiting_y_, l, D);
      load_own(s, waiting_own_, l);
      span_[l] = task.t1[s] - task.t0[s];
      waiting_t_[l] = task.t0[s];
      time_[l] = static_cast<T>(task.t0[s]);
    }
    waiting_evaluations_ = 0;
    if (chooses() || plan_.method.fsal) {
      evaluate_plain(time_, waiting_y_, waiting_slope_, waiting_own_);
      ++waiting_evaluations_;
    }
  }
  bool chooses() const { return std::isnan(plan_.control.first_step); }

  // Sums of squares of the state and of the slope, of each lane.
  void begin_squares(double* state, double* slope) const {
    squares_of(waiting_y_, waiting_y_, state);
    squares_of(waiting_slope_, waiting_y_, slope);
  }

  // Sums of squares of how the slope changes over tentative steps.
  void look_ahead(const double* h0, double* change) {
    for (int l = 0; l < L; ++l) {
      const double h = span_[l] < 0 ? -h0[l] : h0[l];
      size_[l] = static_cast<T>(h);
      time_[l] = static_cast<T>(waiting_t_[l] + h);
    }
    const T one(1);
    const T* slopes[1] = {waiting_slope_};
    combine(waiting_y_, slopes, &one, 1, size_, new_y_, D);
    evaluate_plain(time_, new_y_, spare_, waiting_own_);
    ++waiting_evaluations_;
    for (int i = 0; i < D * L; i += W) (Vec<T>::load(spare_ + i) - Vec<T>::load(waiting_slope_ + i)).store(spare_ + i);
    squares_of(spare_, waiting_y_, change);
  }

  // Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), II.4: the size of a tentative step from how
  // large state and slope are, and that of the first one from how the slope changes over it too.
  static double tentative(double d0, double d1, double span) {
    if (std::isnan(d0) || std::isnan(d1)) return std::nan("");
    const double h0 = d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1;
    return std::fmin(h0, std::fabs(span));
  }
  double first_size(double d0, double d1, double d2, double h0, double span) const {
    if (!std::isfinite(d0) || !std::isfinite(d1)) return std::nan("");
    const double steepest = std::fmax(d1, d2);
    double h1 = steepest <= 1e-15 ? std::fmax(h0 * 1e-3, 1e-6) : std::pow(0.01 / steepest, 1.0 / plan_.method.error_order);
    // a field that blows up one tentative step ahead says nothing of d2: start from h0 and let the controller see
    if (!std::isfinite(d2)) h1 = h0;
    return std::fmin(std::fmin(100 * h0, h1), std::fabs(span));
  }
  void set_first(int lane, double size) {
    const double direction = (span_[lane] > 0) - (span_[lane] < 0);
    waiting_h_[lane] = bounded(direction * size, direction);
  }
  void begin_all() {
    for (int l = 0; l < waiting_end_; ++l) begin(l);
  }

  bool runs() const {
    for (int l = 0; l < L; ++l)
      if (sample_[l] >= 0) return true;
    return false;
  }
  // The sums over the lanes that carry samples.
  void add_squares(double* sums) const {
    for (int l = 0; l < L; ++l)
      if (sample_[l] >= 0) sums[0] += squares_[l], sums[1] += squares_[L + l];
  }

  // The size of an error from its sum of squares over so many entries, and that of the coarse one.
  double relative(double sum, double coarse_sum, double entries) const {
    const double error = std::sqrt(sum / entries);
    if (plan_.b_coarse.size() == 0) return error;
    const double coarse = std::sqrt(coarse_sum / entries) / (error == 0 ? 1.0 : error);
    const double ratio = coarse > 1e100 ? 1e100 : coarse;
    return error / std::sqrt(1 + 0.01 * ratio * ratio);
  }

  int samples() const { return waiting_end_; }

  // Tries one step of every lane, up to its error.
  void attempt() {
    for (int l = 0; l < L; ++l) {
      const double remaining = t1_[l] - t_[l];
      lands_[l] = sample_[l] >= 0 && remaining / h_[l] <= 1 + slack;
      step_[l] = sample_[l] < 0 ? 0 : lands_[l] ? remaining : h_[l];
      size_[l] = static_cast<T>(step_[l]);
    }
    if (blocks_) {
      block_ = blocks_->open(Stages<T>::rows_of(plan_, first_, true));
      block_->full = kept_whole();
      stages_.lie_in(plan_, *block_, first_);
      copy_rows(y_, stages_.state[0], D);
      if (first_) copy_rows(carried_, stages_.slope[0], D);
    } else {
      stages_.state[0] = y_;
    }
    for (int i = first_; i < S; ++i) evaluate_stage(i);
    ended_ = stages_.state[S - 1];  // where the last stage is evaluated at the end of the step
    if (!plan_.method.fsal) {
      ended_ = new_y_;
      combine(stages_.state[0], stages_.slope.data(), plan_.b.data(), S, size_, ended_, D);
    }
    if (plan_.control.adaptive) squares();
  }

  // Accepts or rejects the step of each lane, whose error relative to what is allowed is given.
  void settle(const double* error) {
    const Method& method = plan_.method;
    const Control& control = plan_.control;
    const T* const y = stages_.state[0];
    bool accept[L];
    double h_next[L], t_next[L], factor[L];
    if (control.adaptive) factors(error, factor);
    bool any = false, all = true, some_due = false;
    Status failure[L];
    std::int64_t due_end[L];
    for (int l = 0; l < L; ++l) {
      accept[l] = false;
      failure[l] = Status::success;
      due_end[l] = output_[l];
      if (sample_[l] < 0) continue;
      ++tried_[l];
      evaluated_[l] += S - first_;
      double proposed = own_size_[l];
      accept[l] = true;
      if (control.adaptive) {
        accept[l] = error[l] <= 1;
        if (control.min_step > 0 && std::isfinite(error[l]) && std::fabs(step_[l]) <= control.min_step * (1 + slack)) accept[l] = true;
        proposed = step_[l] * factor[l];
      }
      t_next[l] = accept[l] ? (lands_[l] ? t1_[l] : t_[l] + step_[l]) : t_[l];
      const bool stuck = control.adaptive && (std::fabs(proposed) <= std::fmax(std::fabs(t_[l]) * spacing, floor_[l]) ||
                                              (control.min_step > 0 && std::fabs(step_[l]) <= control.min_step));
      h_next[l] = bounded(proposed, direction_[l]);
      if (stuck && !accept[l]) failure[l] = std::isfinite(error[l]) ? Status::step_underflow : Status::nonfinite;
      if (accept[l] && plan_.task.t_eval) {
        while (due_end[l] < plan_.task.outputs && (output_time(due_end[l], sample_[l]) - t_next[l]) * direction_[l] <= 0) ++due_end[l];
        some_due |= due_end[l] > output_[l];
      }
      any |= accept[l];
      all &= accept[l];
    }

    if (some_due) {
      for (int i = S; i < plan_.all; ++i) evaluate_stage(i);
      for (int l = 0; l < L; ++l)
        if (due_end[l] > output_[l]) evaluated_[l] += method.extra;
      interpolate(y, due_end);
    }
    if (block_ && any) {
      for (int l = 0; l < L; ++l) {
        block_->t[l] = t_[l];
        block_->h[l] = step_[l];
        block_->sample[l] = accept[l] ? static_cast<std::int32_t>(sample_[l]) : -1;
        block_->first_output[l] = static_cast<std::int32_t>(output_[l]);
        block_->end_output[l] = static_cast<std::int32_t>(due_end[l]);
        block_->last[l] = lands_[l];
      }
      block_->extended = some_due && method.extra > 0;
      lend(*block_, accept);
    }

    // what the accepted steps came to
    if (any) {
      T* const last = stages_.slope[S - 1];
      if (all) {
        copy_rows(ended_, y_, D);
        if (method.fsal) copy_rows(last, carried_, D);
      } else {
        for (int d = 0; d < D; ++d)
          for (int l = 0; l < L; ++l)
            if (accept[l]) {
              y_[d * L + l] = ended_[d * L + l];
              if (method.fsal) carried_[d * L + l] = last[d * L + l];
            }
      }
      if (block_) shut();
    }

    for (int l = 0; l < L; ++l) {
      if (sample_[l] < 0) continue;
      output_[l] = due_end[l];
      if (accept[l]) ++accepted_[l];
      t_[l] = t_next[l];
      const bool arrived = t_next[l] == t1_[l];
      if (arrived) {
        h_[l] = h_next[l];
        end(l, Status::success);
      } else if (failure[l] != Status::success) {
        h_[l] = 0;
        end(l, failure[l]);
      } else {
        h_[l] = h_next[l];
        if (tried_[l] >= control.max_steps) end(l, Status::max_steps);
      }
    }
  }

private:
  const Plan<T>& plan_;
  Blocks<T>* blocks_;
  const int D, S, first_;
  const Layout& layout_;
  Stages<T> stages_;
  Array<T> numbers_;
  T *y_, *carried_, *new_y_, *spare_, *waiting_y_, *waiting_slope_, *own_, *waiting_own_, *scratch_, *size_, *time_;

  std::int64_t sample_[L];
  double t_[L], h_[L], t1_[L], direction_[L], floor_[L], before_[L], two_before_[L], limit_[L], own_size_[L];
  std::int64_t output_[L], tried_[L], accepted_[L], evaluated_[L];

  // The step that is being tried.
  bool lands_[L];
  double step_[L];
  T squares_[2 * L];
  T* ended_ = nullptr;
  Block<T>* block_ = nullptr;

  // Samples that have a slope and a first step, and wait for a lane.
  int waiting_ = 0, waiting_end_ = 0;
  std::int64_t waiting_first_ = 0;
  double waiting_h_[L], waiting_t_[L], span_[L];
  int waiting_evaluations_ = 0;

  Frame<T> frame(T* time, T* state, T* slope, T* saved, T* own) const {
    Frame<T> f;
    f.at[static_cast<int>(Place::scratch)] = scratch_;
    f.at[static_cast<int>(Place::saved)] = saved;
    f.at[static_cast<int>(Place::state)] = state;
    f.at[static_cast<int>(Place::time)] = time;
    f.at[static_cast<int>(Place::slope)] = slope;
    f.at[static_cast<int>(Place::own)] = own;
    return f;
  }
  void evaluate(const Frame<T>& f) const {
    thalweg::THALWEG_ISA::evaluate(plan_.program, layout_, plan_.shared, f);
  }
  // Without keeping anything.
  void evaluate_plain(T* time, T* state, T* slope, T* own) {
    thalweg::THALWEG_ISA::evaluate(plan_.program, plan_.program.plain, plan_.shared, plain_frame(time, state, slope, own));
  }
  Frame<T> plain_frame(T* time, T* state, T* slope, T* own) {
    if (blocks_ && plain_scratch_.size() == 0) plain_scratch_.resize(static_cast<std::size_t>(plan_.program.plain.scratch + 1) * L);
    Frame<T> f = frame(time, state, slope, nullptr, own);
    if (blocks_) f.at[static_cast<int>(Place::scratch)] = plain_scratch_.data();
    return f;
  }
  Array<T> plain_scratch_;

  // Sums of squares of rows relative to the tolerance at y, of each lane.
  void squares_of(const T* x, const T* y, double* to) const {
    T sums[L] = {};
    for (int d = 0; d < D; ++d)
      for (int j = 0; j < L; j += W) {
        const Vec<T> allowed = Vec<T>(atol(d)) + abs(Vec<T>::load(y + d * L + j)) * rtol(d);
        const Vec<T> ratio = Vec<T>::load(x + d * L + j) / allowed;
        (Vec<T>::load(sums + j) + ratio * ratio).store(sums + j);
      }
    for (int l = 0; l < L; ++l) to[l] = static_cast<double>(sums[l]);
  }
  T rtol(int d) const { return plan_.task.rtol[d * plan_.task.rtol_step]; }
  T atol(int d) const { return plan_.task.atol[d * plan_.task.atol_step]; }

  double bounded(double h, double direction) const {
    const Control& c = plan_.control;
    if (std::fabs(h) > c.max_step) h = direction * c.max_step;
    if (c.min_step > 0 && std::fabs(h) < c.min_step) h = direction * c.min_step;
    return h;
  }

  // Takes samples that lie side by side, and gives each its slope and the size of its first step.
  template <class Next>
  bool fetch(Next& next) {
    std::int64_t first, end;
    if (!next(first, end)) return false;
    load(first, end);
    double h0[L], squares[3][L];
    if (chooses()) {
      begin_squares(squares[0], squares[1]);
      for (int l = 0; l < L; ++l) h0[l] = tentative(root(squares[0][l]), root(squares[1][l]), span_[l]);
      look_ahead(h0, squares[2]);
    }
    for (int l = 0; l < waiting_end_; ++l) {
      double size = plan_.control.first_step;
      if (chooses()) size = first_size(root(squares[0][l]), root(squares[1][l]), root(squares[2][l]) / h0[l], h0[l], span_[l]);
      set_first(l, size);
    }
    return true;
  }
  double root(double sum) const { return std::sqrt(sum / D); }

  void load_own(std::int64_t sample, T* rows, int lane) const {
    const Program& program = plan_.program;
    for (int v = 2; v < program.inputs; rows += program.sizes[v++] * L)
      put_column(plan_.task.own[v - 2] + sample * program.sizes[v], rows, lane, program.sizes[v]);
  }

  double output_time(std::int64_t output, std::int64_t sample) const {
    return plan_.task.t_eval[output * plan_.task.output_step + sample * plan_.task.sample_step];
  }
  T* output(std::int64_t output, std::int64_t sample) const {
    return plan_.task.ys + (output * plan_.task.batch + sample) * D;
  }

  // Puts the next waiting sample into a lane; one that does not run ends at once.
  void begin(int l) {
    const Task<T>& task = plan_.task;
    const int from = waiting_++;
    const std::int64_t s = waiting_first_ + from;
    for (int d = 0; d < D; ++d) {
      y_[d * L + l] = waiting_y_[d * L + from];
      carried_[d * L + l] = waiting_slope_[d * L + from];
    }
    for (int r = 0; r < plan_.program.own; ++r) own_[r * L + l] = waiting_own_[r * L + from];
    t_[l] = task.t0[s];
    t1_[l] = task.t1[s];
    direction_[l] = (t1_[l] > t_[l]) - (t1_[l] < t_[l]);
    tried_[l] = accepted_[l] = evaluated_[l] = 0;
    h_[l] = 0;
    output_[l] = 0;
    sample_[l] = s;
    if (!task.t_eval) {
      std::memcpy(output(0, s), task.y0 + s * D, sizeof(T) * D);
    } else {
      while (output_[l] < task.outputs && output_time(output_[l], s) == t_[l])
        std::memcpy(output(output_[l]++, s), task.y0 + s * D, sizeof(T) * D);
    }
    if (t_[l] == t1_[l]) return end(l, Status::success);
    evaluated_[l] = waiting_evaluations_;
    if (!std::isfinite(waiting_h_[from])) return end(l, Status::nonfinite);
    h_[l] = waiting_h_[from];
    own_size_[l] = h_[l];
    floor_[l] = spacing * std::fabs(h_[l]);
    before_[l] = two_before_[l] = 1;
    limit_[l] = plan_.control.most;
  }

  // Writes what is known of a lane's sample, and frees the lane.
  void end(int l, Status status) {
    const Task<T>& task = plan_.task;
    const std::int64_t s = sample_[l];
    if (status == Status::success)
      for (int d = 0; d < D; ++d)
        if (!std::isfinite(y_[d * L + l])) status = Status::nonfinite;
    if (!task.t_eval) {
      T* to = output(1, s);
      if (status == Status::success)
        take_column(y_, l, to, D);
      else
        for (int d = 0; d < D; ++d) to[d] = std::numeric_limits<T>::quiet_NaN();
    } else {
      for (; output_[l] < task.outputs; ++output_[l])
        for (int d = 0; d < D; ++d) output(output_[l], s)[d] = std::numeric_limits<T>::quiet_NaN();
    }
    task.status[s] = static_cast<std::int64_t>(status);
    task.n_steps[s] = tried_[l];
    task.n_accepted[s] = accepted_[l];
    task.nfev[s] = evaluated_[l];
    task.t_end[s] = t_[l];
    task.h_end[s] = h_[l];
    sample_[l] = -1;
    h_[l] = 0;  // the lane stands still
  }

  bool kept_whole() const {
    const std::int64_t tiles = plan_.control.joint ? (plan_.task.batch + L - 1) / L : plan_.task.threads;
    return blocks_->bytes() * tiles <= plan_.task.memory_limit;
  }

  // A step that is not kept whole gives back the room of its stages.
  void shut() {
    if (!block_->full) blocks_->open(Stages<T>::rows_of(plan_, first_, false));
    blocks_->keep(block_);
  }

  void evaluate_stage(int i) {
    T* const time = stages_.time[i];
    const double c = plan_.method.c[i];
    for (int l = 0; l < L; ++l) time[l] = static_cast<T>(t_[l] + c * step_[l]);
    if (i > 0)
      combine(stages_.state[0], stages_.slope.data(), plan_.a.data() + static_cast<std::ptrdiff_t>(i) * plan_.all, i, size_,
              stages_.state[i], D);
    evaluate(frame(time, stages_.state[i], stages_.slope[i], stages_.saved[i], own_));
  }

  // Sums of squares of the error relative to what is allowed, and of the coarse one.
  void squares() {
    const T* const y = stages_.state[0];
    const bool coarse = plan_.b_coarse.size() > 0;
    const T* term[64];
    T weight[2][64];
    int terms = 0;
    for (int j = 0; j < S; ++j)
      if (plan_.b_error[j] != T(0) || (coarse && plan_.b_coarse[j] != T(0))) {
        weight[0][terms] = plan_.b_error[j];
        weight[1][terms] = coarse ? plan_.b_coarse[j] : T(0);
        term[terms++] = stages_.slope[j];
      }
    for (int j = 0; j < L; j += W) {
      const Vec<T> size = Vec<T>::load(size_ + j);
      Vec<T> total(T(0)), coarse_total(T(0));
      for (int d = 0; d < D; ++d) {
        const int at = d * L + j;
        Vec<T> sum(T(0)), coarse_sum(T(0));
        for (int n = 0; n < terms; ++n) sum += Vec<T>::load(term[n] + at) * weight[0][n];
        const Vec<T> inverse = T(1) / (Vec<T>(atol(d)) + max(abs(Vec<T>::load(y + at)), abs(Vec<T>::load(ended_ + at))) * rtol(d));
        const Vec<T> ratio = sum * size * inverse;
        total += ratio * ratio;
        if (coarse) {
          for (int n = 0; n < terms; ++n) coarse_sum += Vec<T>::load(term[n] + at) * weight[1][n];
          const Vec<T> other = coarse_sum * size * inverse;
          coarse_total += other * other;
        }
      }
      total.store(squares_ + j);
      coarse_total.store(squares_ + L + j);
    }
  }

  // How the size of each lane changes; what is remembered of this step's error.
  void factors(const double* error, double* factor) {
    using V = Vec<double>;
    constexpr int Wide = V::lanes;
    const Control& c = plan_.control;
    const double order = plan_.method.error_order;
    for (int l = 0; l < L; l += Wide) {
      V e = V::load(error + l);
      const auto accept = e <= V(1.0);
      e = select(e < V(1e-10), 1e-10, e);  // NaN stays
      V f = c.safety * pow(e, V(-(c.p + c.i + c.d) / order));
      V most = V::load(limit_ + l), before = V::load(before_ + l), two_before = V::load(two_before_ + l);
      if (c.d != 0) {
        f *= pow(two_before, V(-c.d / order));
        select(accept, before, two_before).store(two_before_ + l);
      }
      if (c.p != 0 || c.d != 0) {
        f *= pow(before, V((c.p + 2 * c.d) / order));
        select(accept, select(e > V(telling), e, telling), before).store(before_ + l);
        most = select(accept, most, c.safety);
      }
      f = select(f > most, most, f);
      f = select(f > V(c.least), f, c.least);  // NaN too
      f.store(factor + l);
      select(accept, c.most, V(1.0)).store(limit_ + l);
    }
  }

  // b_i(θ) of every stage.
  void weights(double theta, double* to) const {
    for (int i = 0; i < plan_.all; ++i) {
      const auto& row = plan_.method.interpolant[i];
      double sum = 0;
      for (int n = plan_.method.degree; n-- > 0;) sum = (sum + row[n]) * theta;
      to[i] = sum;
    }
  }

  // Writes the outputs of each lane that lie in its step.
  void interpolate(const T* y, const std::int64_t* end) const {
    double w[64];
    for (int l = 0; l < L; ++l)
      for (std::int64_t o = output_[l]; o < end[l]; ++o) {
        weights((output_time(o, sample_[l]) - t_[l]) / step_[l], w);
        T* to = output(o, sample_[l]);
        for (int d = 0; d < D; ++d) {
          T sum = y[d * L + l];
          for (int i = 0; i < plan_.all; ++i)
            if (w[i] != 0) sum += static_cast<T>(w[i] * step_[l]) * stages_.slope[i][d * L + l];
          to[d] = sum;
        }
      }
  }

  // In a recorded step, lanes that did not accept lend the numbers of one that did: in sums over lanes theirs count for
  // nothing, but 0 times infinity would be NaN.
  void lend(Block<T>& block, const bool* accept) const {
    int donor = 0;
    while (!accept[donor]) ++donor;
    bool whole = true;
    for (int l = 0; l < L; ++l) {
      block.donor[l] = accept[l] ? l : donor;
      whole &= accept[l];
    }
    if (whole) return;
    const std::size_t rows = Stages<T>::rows_of(plan_, first_, block.full) -
                             (block.full && !block.extended ? extra_rows() : 0);
    for (std::size_t row = 0; row < rows; ++row) {
      T* at = block.rows + row * L;
      for (int l = 0; l < L; ++l) at[l] = accept[l] ? at[l] : at[donor];
    }
    for (int l = 0; l < L; ++l)
      if (!accept[l]) block.t[l] = block.t[donor], block.h[l] = block.h[donor];
  }
  std::size_t extra_rows() const {
    return static_cast<std::size_t>(plan_.method.extra) * (1 + 2 * static_cast<std::size_t>(D) + plan_.program.record.saved);
  }
};

}  // namespace thalweg::THALWEG_ISA
