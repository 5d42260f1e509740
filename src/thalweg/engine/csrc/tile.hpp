// A tile of samples carried through a solve, by whatever family of methods takes the steps.
//
// Each sample has steps of its own. A lane whose sample has ended takes the next one, so that no lane waits. The
// decisions are those of loop/integrate.py, one for one: a count or a status that differs from its is a fault.
//
// Rows of the state lie under each other, a row being `lanes` numbers; times and sizes are float64 throughout.
//
// A family is a class that has
//
//   Scalar                         the numbers of the state: float or double
//   Plan                           what all its tiles share, with `method`, `tempered` and `carries_slope`
//   Record                         what it keeps of its steps; one is handed to the constructor, or none
//   workspace_rows(plan)           how many rows it needs while a step is tried and settled, beside those of evaluations
//   Family(plan, record, scratch, workspace)  scratch: the rows of that name for every evaluation of the tile
//   begin(lane, slope, from)       a sample takes a lane; its slope is that of lane `from`
//   attempt(step)                  goes from step.y to step.ended
//   squares(step, first, end)      measures the error of those rows
//   blemish(step)                  sees whether all is finite, where the size of steps is given
//   extend(step)                   evaluates what the interpolant needs besides; how often, of each lane
//   terms()                        the rows that the interpolant weights
//   settle(step, extended)         sees which lanes accepted

#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "plan.hpp"

namespace thalweg::THALWEG_ISA {

inline constexpr double slack = 1e-6;  // a step that ends this near t1, relative to its size, ends there
inline constexpr double spacing = 10 * 0x1p-52;
inline constexpr double log_telling = -2.302585092994046;  // of 0.1, the least error of an earlier step that says how errors go on

// The step that is being tried, of each lane.
template <class T>
struct Step {
  static constexpr int L = lanes<T>;
  alignas(64) T size[L];               // h, as the field's numbers are
  T squares[2 * L];                    // sums of squares of the error relative to what is allowed, and of the coarse one;
                                       // 0 or NaN where the size of steps is given, see `blemish`
  double t[L], h[L];                   // where it begins, and how long it is: 0 where a lane carries nothing
  std::int64_t sample[L];              // -1 where a lane carries nothing
  std::int64_t output[L], end_output[L];  // the first that may lie in it, and the first behind it
  double lands[L];                     // 1 where it ends at t1, else 0
  T accept[L];                         // 1 where it is taken, else 0
  bool any, all;                       // whether some lane accepts, and whether all do
  T *y, *own;                          // the state where it begins; the arguments of each sample
  const T* ended;                      // where it comes to
  int nfev, njev, nlu;                 // what it took, of each lane
};

// Rows of the lanes that accept the step; where all that carry something do, of all.
template <class T>
void copy_accepted(const Step<T>& step, const T* from, T* to, int rows) {
  if (step.all)
    copy_rows(from, to, rows);
  else
    copy_lanes(from, to, step.accept, rows);
}

// How samples begin, where that is known of all before the first step of any.
template <class T>
struct Beginnings {
  Array<double> size;         // of the first step
  Array<T> slope;             // (batch, D)
  Array<std::int64_t> order;  // in which they take lanes
};

// One thread's tile and what it works with.
template <class Family>
class Tile {
public:
  using T = typename Family::Scalar;
  static constexpr int L = lanes<T>, W = Vec<T>::lanes;
  using Plan = typename Family::Plan;

  // Rows that hold nothing from one call of `load`, `look_ahead`, `attempt` or `run` to the next, but where outputs lie
  // inside of a step, or somebody looks there: `settle` then needs what `attempt` left. Tiles that take turns may share them.
  static std::size_t workspace_rows(const Plan& plan) { return scratch_rows(plan) + Family::workspace_rows(plan); }

  // `workspace`: of that many rows. `part`: of the trail.
  Tile(const Plan& plan, typename Family::Record* record, T* workspace, int part)
      : plan_(plan), D(plan.program.dimension), part_(part), scratch_(workspace), numbers_(room(plan)),
        family_(plan, record, scratch_, workspace + scratch_rows(plan) * L) {
    const std::size_t state = static_cast<std::size_t>(D) * L, own = static_cast<std::size_t>(plan.program.own) * L;
    numbers_.calm();
    T* at = numbers_.data();
    const auto take = [&](std::size_t count) { return std::exchange(at, at + count); };
    step_.y = take(state), step_.own = take(own);
    waiting_y_ = take(state), waiting_slope_ = take(state), waiting_own_ = take(own);
    ahead_ = take(state), ahead_slope_ = take(state);
    time_ = take(L);
    for (int l = 0; l < L; ++l) {
      step_.sample[l] = -1;
      step_.t[l] = h_[l] = t1_[l] = direction_[l] = floor_[l] = own_size_[l] = carries_[l] = 0;
      tried_[l] = accepted_[l] = evaluated_[l] = linearized_[l] = factored_[l] = 0;
      step_.output[l] = step_.end_output[l] = 0;
      limit_[l] = 1;
      step_.squares[l] = step_.squares[L + l] = 0;
      log_before_[l] = log_two_before_[l] = 0;
    }
  }

  // Carries samples: refill() makes the next ones wait, by `prepare` or `expect`, and says whether there were any. Calls
  // `between` before each step.
  template <class Refill, class Between>
  void run(Refill refill, Between between) {
    waiting_ = waiting_end_ = 0;
    bool more = true;
    for (;;) {
      for (int l = 0; l < L && more && carried_ < L; ++l)
        while (step_.sample[l] < 0 && more) {
          if (waiting_ == waiting_end_ && !(more = refill())) break;
          begin(l);
        }
      if (carried_ == 0) return;
      between();
      attempt();
      if (plan_.control.adaptive)
        family_.squares(step_, 0, D);
      else
        family_.blemish(step_);
      T error[L];
      if (plan_.tempered())
        for (int l = 0; l < L; ++l) error[l] = static_cast<T>(relative(step_.squares[l], step_.squares[L + l], D));
      else
        for (int l = 0; l < L; l += W) sqrt(Vec<T>::load(step_.squares + l) / Vec<T>(static_cast<T>(D))).store(error + l);
      settle(error);
    }
  }

  // Makes the samples [first, end) wait, at most L, and gives each its slope and the size of its first step.
  void prepare(std::int64_t first, std::int64_t end) {
    using V = Vec<double>;
    constexpr int Wide = V::lanes;
    load(first, end);
    double size[L];
    if (chooses()) {
      double state[L], slope[L], change[L], h0[L];
      const auto root = [&](const double* squares, int l) { return sqrt(V::load(squares + l) / V(D)); };
      begin_squares(0, D, state, slope);
      for (int l = 0; l < L; l += Wide) tentative(root(state, l), root(slope, l), V::load(span_ + l)).store(h0 + l);
      look_ahead(h0);
      change_squares(0, D, change);
      for (int l = 0; l < L; l += Wide) {
        const V h = V::load(h0 + l);
        first_size(root(state, l), root(slope, l), root(change, l) / h, h, V::load(span_ + l)).store(size + l);
      }
    }
    for (int l = 0; l < waiting_end_; ++l) set_first(l, chooses() ? size[l] : plan_.control.first_step);
  }

  // Notes how those that wait begin.
  void note(Beginnings<T>& to) const {
    for (int l = 0; l < waiting_end_; ++l) {
      const std::int64_t s = waiting_sample_[l];
      to.size[s] = waiting_h_[l];
      if (plan_.carries_slope()) take_column(waiting_slope_, l, to.slope.data() + s * D, D);
    }
  }

  // Makes samples wait whose beginnings are known, at most L.
  void expect(const Beginnings<T>& from, std::int64_t first, std::int64_t end) {
    waiting_ = 0;
    waiting_end_ = static_cast<int>(end - first);
    for (int l = 0; l < waiting_end_; ++l) {
      const std::int64_t s = waiting_sample_[l] = from.order[first + l];
      put_sample(s, l);
      waiting_h_[l] = from.size[s];
      if (plan_.carries_slope()) put_column(from.slope.data() + s * D, waiting_slope_, l, D);
    }
  }

  // What follows is for tiles whose samples step together: a step of all is settled by one error.

  // Takes the samples [first, end), at most L, and evaluates the slope where the method or the first step needs it.
  void load(std::int64_t first, std::int64_t end) {
    const Task<T>& task = plan_.task;
    waiting_ = 0;
    waiting_end_ = static_cast<int>(end - first);
    for (int l = 0; l < L; ++l) {
      const std::int64_t s = waiting_sample_[l] = first + (l < waiting_end_ ? l : 0);  // lanes without one repeat the first
      put_sample(s, l);
      span_[l] = task.t1[s] - task.t0[s];
      waiting_t_[l] = task.t0[s];
      time_[l] = static_cast<T>(task.t0[s]);
    }
    if (beginning_evaluations() > 0) evaluate_waiting(waiting_y_, waiting_slope_);
  }
  bool chooses() const { return std::isnan(plan_.control.first_step); }

  // Sums of squares of rows of the state and of the slope, of each lane.
  void begin_squares(int first, int end, double* state, double* slope) const {
    squares_of(waiting_y_, first, end, state);
    squares_of(waiting_slope_, first, end, slope);
  }

  // How the slope changes over tentative steps, of which there are sums of squares then.
  void look_ahead(const double* h0) {
    T size[L];
    for (int l = 0; l < L; ++l) {
      const double h = span_[l] < 0 ? -h0[l] : h0[l];
      size[l] = static_cast<T>(h);
      time_[l] = static_cast<T>(waiting_t_[l] + h);
    }
    const T one(1);
    const int only = 0;
    const T* slopes[1] = {waiting_slope_};
    combine(waiting_y_, slopes, {&one, &only, 1}, size, ahead_, D);
    evaluate_waiting(ahead_, ahead_slope_);
    for (int i = 0; i < D * L; i += W)
      (Vec<T>::load(ahead_slope_ + i) - Vec<T>::load(waiting_slope_ + i)).store(ahead_slope_ + i);
  }
  void change_squares(int first, int end, double* change) const { squares_of(ahead_slope_, first, end, change); }

  // Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), II.4: the size of a tentative step from how
  // large state and slope are, and that of the first one from how the slope changes over it too.
  static Vec<double> tentative(Vec<double> d0, Vec<double> d1, Vec<double> span) {
    using V = Vec<double>;
    const V h0 = select((d0 < V(1e-5)) | (d1 < V(1e-5)), 1e-6, V(0.01) * d0 / d1);
    return select(isnan(d0) | isnan(d1), std::nan(""), smaller_or(h0, abs(span)));
  }
  Vec<double> first_size(Vec<double> d0, Vec<double> d1, Vec<double> d2, Vec<double> h0, Vec<double> span) const {
    using V = Vec<double>;
    const auto finite = [](V x) { return abs(x) < V(std::numeric_limits<double>::infinity()); };
    const V steepest = larger_or(d2, d1);
    const V rising = exp(log(V(0.01) / steepest) / V(plan_.method.error_order));
    const V h1 = select(steepest <= V(1e-15), larger_or(h0 * V(1e-3), V(1e-6)), rising);
    // a field that blows up one tentative step ahead says nothing of d2: start from h0 and let the controller see
    const V size = smaller_or(smaller_or(V(100.0) * h0, select(finite(d2), h1, h0)), abs(span));
    return select(finite(d0) & finite(d1), size, V(std::nan("")));
  }
  void set_first(int lane, double size) {
    const double direction = (span_[lane] > 0) - (span_[lane] < 0);
    waiting_h_[lane] = bounded(direction * size, direction);
  }
  void begin_all() {
    for (int l = 0; l < waiting_end_; ++l) begin(l);
  }

  bool runs() const { return carried_ > 0; }
  // The sums over the lanes that carry samples, of rows of the error; nothing where the size of steps is given.
  void add_squares(int first, int end, double* sums) {
    if (!plan_.control.adaptive) return;
    family_.squares(step_, first, end);
    for (int l = 0; l < L; ++l)
      if (step_.sample[l] >= 0) sums[0] += step_.squares[l], sums[1] += step_.squares[L + l];
  }

  // The size of an error from its sum of squares over so many entries, and that of the coarse one.
  double relative(double sum, double coarse_sum, double entries) const {
    const double error = std::sqrt(sum / entries);
    if (!plan_.tempered()) return error;
    const double coarse = std::sqrt(coarse_sum / entries) / (error == 0 ? 1.0 : error);
    const double ratio = coarse > 1e100 ? 1e100 : coarse;
    return error / std::sqrt(1 + 0.01 * ratio * ratio);
  }

  int samples() const { return waiting_end_; }

  // Tries one step of every lane.
  void attempt() {
    using V = Vec<double>;
    constexpr int Wide = V::lanes;
    for (int l = 0; l < L; l += Wide) {
      const V remaining = V::load(t1_ + l) - V::load(step_.t + l), h = V::load(h_ + l);
      const auto carries = V::load(carries_ + l) != V(0.0), lands = (remaining / h <= V(1 + slack)) & carries;
      const V size = select(carries, select(lands, remaining, h), 0.0);
      select(lands, V(1.0), 0.0).store(step_.lands + l);
      size.store(step_.h + l);
      store_narrow(size, step_.size + l);
    }
    family_.attempt(step_);
  }

  // Accepts or rejects the step of each lane, whose error relative to what is allowed is given.
  void settle(const T* error) {
    const Control& control = plan_.control;
    const Task<T>& task = plan_.task;
    using V = Vec<double>;
    constexpr int Wide = V::lanes;
    double h_next[L], t_next[L];
    T factor[L];
    if (control.adaptive) factors(error, factor);
    const V tried(1.0), evaluated(step_.nfev), linearized(step_.njev), factored(step_.nlu);
    std::uint64_t carrying = 0, accepting = 0, failing = 0, ending = 0;  // one bit for each lane
    for (int l = 0; l < L; l += Wide) {
      const auto carries = V::load(carries_ + l) != V(0.0), lands = V::load(step_.lands + l) != V(0.0);
      const V t = V::load(step_.t + l), h = V::load(step_.h + l), t1 = V::load(t1_ + l), direction = V::load(direction_ + l);
      const V e = load_wide(error + l);
      auto fits = (e <= V(1.0)) & carries, stuck = carries;
      V proposed = V::load(own_size_ + l);
      if (control.adaptive) {
        proposed = h * load_wide(factor + l);
        stuck = (abs(proposed) <= max(abs(t) * V(spacing), V::load(floor_ + l))) & carries;
        if (control.min_step > 0) {
          const auto finite = abs(e) < V(std::numeric_limits<double>::infinity());
          fits = fits | ((abs(h) <= V(control.min_step * (1 + slack))) & finite & carries);
          stuck = stuck | ((abs(h) <= V(control.min_step)) & carries);
        }
      }
      stuck = stuck & ~fits;
      proposed = select(abs(proposed) > V(control.max_step), direction * V(control.max_step), proposed);
      if (control.min_step > 0)
        proposed = select(abs(proposed) < V(control.min_step), direction * V(control.min_step), proposed);
      const V reached = select(fits, select(lands, t1, t + h), t);
      const auto arrived = (reached == t1) & carries;
      const V zero(0.0);
      const V tries = V::load(tried_ + l) + select(carries, tried, zero);
      tries.store(tried_ + l);
      (V::load(accepted_ + l) + select(fits, tried, zero)).store(accepted_ + l);
      (V::load(evaluated_ + l) + select(carries, evaluated, zero)).store(evaluated_ + l);
      if (step_.njev) (V::load(linearized_ + l) + select(carries, linearized, zero)).store(linearized_ + l);
      if (step_.nlu) (V::load(factored_ + l) + select(carries, factored, zero)).store(factored_ + l);
      reached.store(t_next + l);
      select(stuck & ~arrived, zero, proposed).store(h_next + l);
      store_narrow(select(fits, V(1.0), zero), step_.accept + l);
      carrying |= lanes_of(carries) << l;
      accepting |= lanes_of(fits) << l;
      failing |= lanes_of(stuck & ~arrived) << l;
      ending |= lanes_of((arrived | stuck | (tries >= V(static_cast<double>(control.max_steps)))) & carries) << l;
    }
    step_.any = accepting != 0;
    step_.all = accepting == carrying;
    bool some_due = false;
    if (task.t_eval)
      for (int l = 0; l < L; ++l) {
        std::int64_t& end = step_.end_output[l] = step_.output[l];
        if (!step_.accept[l]) continue;
        while (end < task.outputs && (output_time(end, step_.sample[l]) - t_next[l]) * direction_[l] <= 0) ++end;
        some_due |= end > step_.output[l];
      }

    const bool looks = task.trail && step_.any;
    if (some_due || looks) {
      const int extra = family_.extend(step_);
      for (int l = 0; l < L; ++l)
        if (looks ? step_.accept[l] != 0 : step_.end_output[l] > step_.output[l]) evaluated_[l] += extra;
      if (some_due) interpolate();
      if (looks) note();
    }
    if (step_.any) copy_accepted(step_, step_.ended, step_.y, D);
    family_.settle(step_, some_due || looks);

    for (int l = 0; l < L; l += Wide) {
      const auto carries = V::load(carries_ + l) != V(0.0);
      select(carries, V::load(t_next + l), V::load(step_.t + l)).store(step_.t + l);
      select(carries, V::load(h_next + l), V::load(h_ + l)).store(h_ + l);
    }
    if (some_due)
      for (int l = 0; l < L; ++l) step_.output[l] = step_.end_output[l];
    for (int l = 0; ending; ++l, ending >>= 1) {
      if (!(ending & 1)) continue;
      if (step_.t[l] == t1_[l])
        end(l, Status::success);
      else if (failing >> l & 1)
        end(l, std::isfinite(error[l]) ? Status::step_underflow : Status::nonfinite);
      else
        end(l, Status::max_steps);
    }
  }

private:
  const Plan& plan_;
  const int D, part_;
  T* const scratch_;
  Array<T> numbers_;  // the rows that last
  Family family_;
  Step<T> step_;
  T *waiting_y_, *waiting_slope_, *waiting_own_, *ahead_, *ahead_slope_, *time_;

  // Of the samples in the lanes.
  double h_[L], t1_[L], direction_[L], floor_[L], own_size_[L];
  T log_before_[L], log_two_before_[L], limit_[L];  // of errors, and the most that the next step may grow
  double carries_[L];  // 1 where a lane carries a sample, else 0
  double tried_[L], accepted_[L], evaluated_[L], linearized_[L], factored_[L];  // counts, exact below 2^53

  int carried_ = 0;                // how many lanes carry one

  // Samples that have a slope and a first step, and wait for a lane.
  int waiting_ = 0, waiting_end_ = 0;
  std::int64_t waiting_sample_[L];
  double waiting_h_[L], waiting_t_[L], span_[L];

  static std::size_t scratch_rows(const Plan& plan) {
    const Program& program = plan.program;
    return 1 + static_cast<std::size_t>(program.plain.scratch > program.record.scratch ? program.plain.scratch : program.record.scratch);
  }
  static std::size_t room(const Plan& plan) {
    const std::size_t state = plan.program.dimension, own = plan.program.own;
    return (5 * state + 2 * own + 1) * L;
  }

  // Of the samples that wait, at `time_`.
  void evaluate_waiting(T* state, T* slope) {
    evaluate(plan_.plain, frame_of<T>(scratch_, nullptr, time_, state, slope, waiting_own_));
  }
  // How many of these each sample takes.
  int beginning_evaluations() const { return chooses() ? 2 : plan_.carries_slope() ? 1 : 0; }

  // Sums of squares of rows relative to the tolerance where samples wait, of each lane.
  void squares_of(const T* x, int first, int end, double* to) const {
    T sums[L] = {};
    for (int d = first; d < end; ++d)
      for (int j = 0; j < L; j += W) {
        const Vec<T> allowed = fma(abs(Vec<T>::load(waiting_y_ + d * L + j)), Vec<T>(plan_.rtol(d)), Vec<T>(plan_.atol(d)));
        const Vec<T> ratio = Vec<T>::load(x + d * L + j) / allowed;
        fma(ratio, ratio, Vec<T>::load(sums + j)).store(sums + j);
      }
    for (int l = 0; l < L; ++l) to[l] = static_cast<double>(sums[l]);
  }

  double bounded(double h, double direction) const {
    const Control& c = plan_.control;
    if (std::fabs(h) > c.max_step) h = direction * c.max_step;
    if (c.min_step > 0 && std::fabs(h) < c.min_step) h = direction * c.min_step;
    return h;
  }

  // The state and the arguments of a sample that waits.
  void put_sample(std::int64_t sample, int lane) const {
    const Program& program = plan_.program;
    put_column(plan_.task.y0 + sample * D, waiting_y_, lane, D);
    T* rows = waiting_own_;
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
    const std::int64_t s = waiting_sample_[from];
    for (int d = 0; d < D; ++d) step_.y[d * L + l] = waiting_y_[d * L + from];
    family_.begin(l, waiting_slope_, from);
    for (int r = 0; r < plan_.program.own; ++r) step_.own[r * L + l] = waiting_own_[r * L + from];
    step_.t[l] = task.t0[s];
    t1_[l] = task.t1[s];
    direction_[l] = (t1_[l] > step_.t[l]) - (t1_[l] < step_.t[l]);
    tried_[l] = accepted_[l] = evaluated_[l] = linearized_[l] = factored_[l] = 0;
    h_[l] = 0;
    step_.output[l] = step_.end_output[l] = 0;
    step_.sample[l] = s;
    carries_[l] = 1;
    ++carried_;
    if (!task.t_eval) {
      std::memcpy(output(0, s), task.y0 + s * D, sizeof(T) * D);
    } else {
      while (step_.output[l] < task.outputs && output_time(step_.output[l], s) == step_.t[l])
        std::memcpy(output(step_.output[l]++, s), task.y0 + s * D, sizeof(T) * D);
    }
    if (step_.t[l] == t1_[l]) return end(l, Status::success);
    evaluated_[l] = beginning_evaluations();
    if (!std::isfinite(waiting_h_[from]) || !begins(from)) return end(l, Status::nonfinite);
    h_[l] = waiting_h_[from];
    own_size_[l] = h_[l];
    floor_[l] = spacing * std::fabs(h_[l]);
    log_before_[l] = log_two_before_[l] = 0;
    limit_[l] = static_cast<T>(plan_.control.most);
  }

  // Whether the slope that a sample begins with, which speaks in the size of a step that is chosen, lets it begin.
  bool begins(int from) const {
    if (plan_.control.joint || chooses() || !plan_.carries_slope()) return true;
    for (int d = 0; d < D; ++d)
      if (!std::isfinite(waiting_slope_[d * L + from])) return false;
    return true;
  }

  // Writes what is known of a lane's sample, and frees the lane.
  void end(int l, Status status) {
    const Task<T>& task = plan_.task;
    const std::int64_t s = step_.sample[l];
    if (status == Status::success)
      for (int d = 0; d < D; ++d)
        if (!std::isfinite(step_.y[d * L + l])) status = Status::nonfinite;
    if (!task.t_eval) {
      T* to = output(1, s);
      if (status == Status::success)
        take_column(step_.y, l, to, D);
      else
        for (int d = 0; d < D; ++d) to[d] = std::numeric_limits<T>::quiet_NaN();
    } else {
      for (; step_.output[l] < task.outputs; ++step_.output[l])
        for (int d = 0; d < D; ++d) output(step_.output[l], s)[d] = std::numeric_limits<T>::quiet_NaN();
    }
    task.status[s] = static_cast<std::int64_t>(status);
    task.n_steps[s] = tried_[l];
    task.n_accepted[s] = accepted_[l];
    task.nfev[s] = evaluated_[l];
    task.njev[s] = linearized_[l];
    task.nlu[s] = factored_[l];
    task.t_end[s] = step_.t[l];
    task.h_end[s] = h_[l];
    step_.sample[l] = -1;
    carries_[l] = h_[l] = 0;  // the lane stands still
    --carried_;
  }

  // How the size of each lane changes; what is remembered of this step's error. A product of powers of the errors is the
  // exponential of a sum of their logarithms, and as right as the errors are, which are numbers of the state's.
  void factors(const T* error, T* factor) {
    using V = Vec<T>;
    const Control& c = plan_.control;
    const double order = plan_.method.error_order;
    T logs[L];  // of all lanes before the exponentials: none of them waits for another
    for (int l = 0; l < L; l += W) {
      const V e = V::load(error + l);
      log(select(e < V(T(1e-10)), T(1e-10), e)).store(logs + l);  // NaN stays
    }
    for (int l = 0; l < L; l += W) {
      const auto accept = V::load(error + l) <= V(T(1));
      const V log_e = V::load(logs + l);
      V log_f = log_e * static_cast<T>(-(c.p + c.i + c.d) / order);
      V most = V::load(limit_ + l);
      const V before = V::load(log_before_ + l), two_before = V::load(log_two_before_ + l);
      if (c.d != 0) {
        log_f = fma(two_before, V(static_cast<T>(-c.d / order)), log_f);
        select(accept, before, two_before).store(log_two_before_ + l);
      }
      if (c.p != 0 || c.d != 0) {
        log_f = fma(before, V(static_cast<T>((c.p + 2 * c.d) / order)), log_f);
        select(accept, max(log_e, V(static_cast<T>(log_telling))), before).store(log_before_ + l);
        most = select(accept, most, static_cast<T>(c.safety));
      }
      V f = static_cast<T>(c.safety) * exp(log_f);
      f = select(f > most, most, f);
      f = select(f > V(static_cast<T>(c.least)), f, static_cast<T>(c.least));  // NaN too
      f.store(factor + l);
      select(accept, static_cast<T>(c.most), V(T(1))).store(limit_ + l);
    }
  }

  // Leaves what the steps of the lanes that accept them are looked at inside by.
  void note() const {
    const T* const* const terms = family_.terms();
    const int count = static_cast<int>(plan_.method.interpolant.size());
    for (int l = 0; l < L; ++l) {
      if (!step_.accept[l]) continue;
      T* to = plan_.task.trail->note(part_, step_.sample[l], step_.t[l], step_.h[l]);
      take_column(step_.y, l, to, D);
      for (int i = 0; i < count; ++i) take_column(terms[i], l, to += D, D);
    }
  }

  // b_i(θ) of every stage.
  void weights(double theta, double* to) const {
    for (const auto& row : plan_.method.interpolant) {
      double sum = 0;
      for (std::size_t n = row.size(); n-- > 0;) sum = (sum + row[n]) * theta;
      *to++ = sum;
    }
  }

  // Writes the outputs of each lane that lie in its step.
  void interpolate() const {
    const T* const* const terms = family_.terms();
    const int count = static_cast<int>(plan_.method.interpolant.size());
    double w[most_terms];
    for (int l = 0; l < L; ++l)
      for (std::int64_t o = step_.output[l]; o < step_.end_output[l]; ++o) {
        weights((output_time(o, step_.sample[l]) - step_.t[l]) / step_.h[l], w);
        T* to = output(o, step_.sample[l]);
        for (int d = 0; d < D; ++d) {
          T sum = step_.y[d * L + l];
          for (int i = 0; i < count; ++i)
            if (w[i] != 0) sum += static_cast<T>(w[i] * step_.h[l]) * terms[i][d * L + l];
          to[d] = sum;
        }
      }
  }
};

}  // namespace thalweg::THALWEG_ISA
