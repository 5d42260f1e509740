// The engine without Python, for `make sanitize`: solves forward and back, of many shapes, by each set of instructions.
//
// What is computed is compared with exact solutions, with central differences, and with itself: by other numbers of
// threads, and where stages are computed again. Vectors end where the engine must end, so that a sanitizer sees more.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "../isa.hpp"

namespace thalweg {
namespace {

std::atomic<int> checks{0}, solves{0};

void check(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  std::fprintf(stderr, "solves: %s\n", what.c_str());
  std::exit(1);
}

void check_near(double found, double expected, double tolerance, const std::string& what) {
  check(std::fabs(found - expected) <= tolerance, what + ": " + std::to_string(found) + " is not " + std::to_string(expected));
}

template <class X>
bool same(const std::vector<X>& a, const std::vector<X>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](X x, X y) { return x == y || (x != x && y != y); });
}

template <class X>
bool same(const std::vector<std::vector<X>>& a, const std::vector<std::vector<X>>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return same(x, y); });
}

template <class X>
bool finite(const std::vector<X>& a) {
  return std::all_of(a.begin(), a.end(), [](X x) { return std::isfinite(x); });
}

// Programs, as engine/native.py writes them.

struct Value {
  int number, size;
};

struct From {
  bool shared;
  int number, row, stride;
};

From rows_of(Value x, int row = 0) { return {false, x.number, row, 1}; }
From one_of(Value x, int row = 0) { return {false, x.number, row, 0}; }
From shared_tensor(int number, int row = 0, int stride = 1) { return {true, number, row, stride}; }

class Writer {
public:
  Writer(std::vector<int> inputs, std::vector<int> shared) : inputs_(std::move(inputs)), shared_(std::move(shared)), made_(static_cast<int>(inputs_.size())) {}

  Value input(int number) const { return {number, inputs_[number]}; }
  Value time() const { return input(0); }
  Value state() const { return input(1); }

  Value add(Op op, int size, const std::vector<From>& operands, const std::vector<int>& index = {},
            const std::vector<double>& scalars = {}) {
    code_.insert(code_.end(), {static_cast<int>(op), size, static_cast<int>(operands.size())});
    for (const From& x : operands) code_.insert(code_.end(), {x.shared, x.number, x.row, x.stride});
    code_.push_back(static_cast<int>(index.size()));
    code_.insert(code_.end(), index.begin(), index.end());
    code_.push_back(static_cast<int>(scalars.size()));
    scalars_.insert(scalars_.end(), scalars.begin(), scalars.end());
    return {made_++, size};
  }
  Value linear(Value x, int rows, int weight, int bias) {
    return add(Op::linear, rows, {rows_of(x), shared_tensor(weight), shared_tensor(bias)}, {1, rows, x.size});
  }
  std::shared_ptr<const Program> program(Value output, int row = 0) const {
    return std::make_shared<Program>(parse(inputs_, shared_, code_, scalars_, {output.number, row}));
  }

private:
  std::vector<int> inputs_, shared_, code_;
  std::vector<double> scalars_;
  int made_;
};

// Methods: with and without an error, first same as last, extra stages, a second estimate of the error.

ExplicitMethod method(std::vector<std::vector<double>> a, std::vector<double> b, int extra = 0) {
  ExplicitMethod m;
  m.stages = static_cast<int>(a.size()) - extra;
  m.extra = extra;
  for (const auto& row : a) {
    double c = 0;
    for (double x : row) c += x;
    m.c.push_back(c);
  }
  m.a = std::move(a);
  m.b = std::move(b);
  return m;
}

ExplicitMethod euler() {
  ExplicitMethod m = method({{}}, {1});
  m.interpolant = {{1}};
  return m;
}

ExplicitMethod rk4() {
  ExplicitMethod m = method({{}, {0.5}, {0, 0.5}, {0, 0, 1}}, {1 / 6.0, 1 / 3.0, 1 / 3.0, 1 / 6.0});
  m.interpolant = {{1 / 6.0}, {1 / 3.0}, {1 / 3.0}, {1 / 6.0}};
  return m;
}

// Bogacki & Shampine 1989, with Hermite's cubic.
ExplicitMethod bosh3() {
  const std::vector<double> b{2 / 9.0, 1 / 3.0, 4 / 9.0, 0};
  ExplicitMethod m = method({{}, {0.5}, {0, 0.75}, {2 / 9.0, 1 / 3.0, 4 / 9.0}}, b);
  m.fsal = true;
  m.error_order = 3;
  m.b_error = {2 / 9.0 - 7 / 24.0, 1 / 3.0 - 1 / 4.0, 4 / 9.0 - 1 / 3.0, -1 / 8.0};
  for (int i = 0; i < 4; ++i) {
    const double first = i == 0, last = i == 3;
    m.interpolant.push_back({first, 3 * b[i] - 2 * first - last, first + last - 2 * b[i]});
  }
  return m;
}

// Heun's method with Euler's as its estimate, a coarser one too, and its slope at the end as an extra stage.
ExplicitMethod heun() {
  ExplicitMethod m = method({{}, {1}, {0.5, 0.5}}, {0.5, 0.5}, 1);
  m.error_order = 2;
  m.b_error = {0.5, -0.5};
  m.b_coarse = {0.3, -0.3};
  m.interpolant = {{1, -0.5, 0}, {0, 1.5, -1}, {0, -1, 1}};
  return m;
}

// ROS2 of Verwer et al. 1999, with Euler's linearly implicit method as its estimate.
RosenbrockMethod ros2() {
  RosenbrockMethod m;
  const double g = m.gamma = 1 + std::sqrt(0.5);
  m.stages = 2;
  m.error_order = 2;
  m.alpha = {0, 1};
  m.gamma_sums = {g, -g};
  m.a = {{}, {1 / g}};
  m.c = {{}, {-2 / g}};
  m.m = {1.5 / g, 0.5 / g};
  m.m_error = {0.5 / g, 0.5 / g};
  m.interpolant = {{1.5 / g}, {0.5 / g}};
  return m;
}

// One solve and its gradient.

template <class T>
struct Setting {
  std::shared_ptr<const Program> program;
  ExplicitMethod method;
  std::shared_ptr<const RosenbrockMethod> stiff;  // in its place; without a way back
  Control control;
  std::int64_t batch = 1;
  std::vector<T> y0;
  std::vector<double> times{0, 1}, t_eval;  // t0 and t1: of all, or of each row
  bool each_its_own = false;                // t_eval: (outputs, batch)
  std::vector<std::vector<T>> own, shared;
  T tolerance = T(1e-3);
  int threads = 1;
  std::int64_t memory_limit = std::int64_t(1) << 28;
  bool times_wanted = true;                 // whether gradients to times are

  std::int64_t outputs() const { return t_eval.empty() ? 2 : static_cast<std::int64_t>(t_eval.size()) / (each_its_own ? batch : 1); }
};

template <class T>
struct Found {
  std::vector<T> ys, to_y0;
  std::vector<std::int64_t> counts;
  std::vector<double> ends, to_t0, to_t1, to_t_eval;
  std::vector<std::vector<T>> to_own, to_shared;
};

template <class T>
Tape<T>* carried(const Isa& isa, const Setting<T>& s, const Task<T>& task) {
  if (s.stiff) {
    if constexpr (std::is_same_v<T, float>)
      isa.rosenbrock_float(*s.program, *s.stiff, s.control, task);
    else
      isa.rosenbrock_double(*s.program, *s.stiff, s.control, task);
    return nullptr;
  }
  if constexpr (std::is_same_v<T, float>)
    return isa.explicit_float(s.program, s.method, s.control, task);
  else
    return isa.explicit_double(s.program, s.method, s.control, task);
}

template <class X>
std::vector<std::vector<X>> unset_like(const std::vector<std::vector<X>>& like) {
  std::vector<std::vector<X>> made;
  for (const auto& x : like) made.emplace_back(x.size(), NAN);
  return made;
}

// The weights of the sum of all outputs that gradients are of.
template <class T>
std::vector<T> cotangent_of(std::size_t n) {
  std::vector<T> made(n);
  for (std::size_t i = 0; i < n; ++i) made[i] = static_cast<T>(std::cos(0.7 * static_cast<double>(i)) + 0.3);
  return made;
}

// What is noted of the steps.
template <class T>
struct Notes final : Trail<T> {
  std::size_t numbers;
  std::vector<std::vector<std::vector<T>>> of_parts;

  explicit Notes(std::size_t numbers) : numbers(numbers) {}
  void parts(int count) override { of_parts.resize(count); }
  T* note(int part, std::int64_t, double, double) override {
    of_parts[part].emplace_back(numbers, T(NAN));
    return of_parts[part].back().data();
  }
};

template <class T>
Found<T> solved(const Isa& isa, const Setting<T>& s, bool record = true, Trail<T>* trail = nullptr) {
  Found<T> found;
  const std::int64_t outputs = s.outputs(), entries = outputs * s.batch * s.program->dimension;
  found.ys.resize(entries);
  found.counts.resize(6 * s.batch);
  found.ends.resize(2 * s.batch);
  Task<T> task;
  task.batch = s.batch;
  task.y0 = s.y0.data();
  const bool apart = s.times.size() > 2;
  task.t0 = {s.times.data(), apart};
  task.t1 = {s.times.data() + (apart ? s.batch : 1), apart};
  if (!s.t_eval.empty()) {
    task.t_eval = s.t_eval.data();
    task.output_step = s.each_its_own ? s.batch : 1;
    task.sample_step = s.each_its_own;
  }
  task.outputs = outputs;
  for (const auto& x : s.own) task.own.push_back(x.data());
  for (const auto& x : s.shared) task.shared.push_back(x.data());
  task.rtol = task.atol = &s.tolerance;
  task.threads = s.threads;
  task.ys = found.ys.data();
  task.status = found.counts.data();
  task.n_steps = task.status + s.batch;
  task.n_accepted = task.n_steps + s.batch;
  task.nfev = task.n_accepted + s.batch;
  task.njev = task.nfev + s.batch;
  task.nlu = task.njev + s.batch;
  task.t_end = found.ends.data();
  task.h_end = task.t_end + s.batch;
  task.record = record;
  task.trail = trail;
  task.memory_limit = s.memory_limit;
  task.times_wanted = s.times_wanted;
  const std::unique_ptr<Tape<T>> tape(carried(isa, s, task));  // none of a stiff one
  ++solves;
  if (!record) return found;

  for (int again = 0; again < 2; ++again) {  // the second time as the first
    const Found<T> before = found;
    found.to_y0.assign(s.y0.size(), NAN);
    for (auto* times : {&found.to_t0, &found.to_t1}) times->assign(s.batch, NAN);
    found.to_t_eval.assign(s.t_eval.empty() ? 0 : outputs * s.batch, NAN);
    found.to_own = unset_like(s.own);
    found.to_shared = unset_like(s.shared);
    std::vector<T> cotangent = cotangent_of<T>(entries);
    for (std::int64_t i = 0; i < entries; ++i)
      if (!std::isfinite(found.ys[i])) cotangent[i] = 0;
    Back<T> back;
    back.cotangent = cotangent.data();
    back.y0 = found.to_y0.data();
    if (s.times_wanted) {
      back.t0 = found.to_t0.data();
      back.t1 = found.to_t1.data();
      back.t_eval = s.t_eval.empty() ? nullptr : found.to_t_eval.data();
    }
    for (auto& x : found.to_own) back.own.push_back(x.data());
    for (auto& x : found.to_shared) back.shared.push_back(x.data());
    tape->pull_back(back);
    if (again) check(same(before.to_y0, found.to_y0) && same(before.to_shared, found.to_shared), "a second way back differs");
  }
  return found;
}

// The sum of all outputs that gradients are of.
double weighed(const Isa& isa, const Setting<double>& s) {
  const Found<double> found = solved(isa, s, false);
  const std::vector<double> weights = cotangent_of<double>(found.ys.size());
  double sum = 0;
  for (std::size_t i = 0; i < found.ys.size(); ++i)
    if (std::isfinite(found.ys[i])) sum += weights[i] * found.ys[i];
  return sum;
}

// Exact answers.

template <class T>
void decay(const Isa& isa) {
  Writer w({1, 1, 1}, {});
  Setting<T> s;
  s.program = w.program(w.add(Op::neg, 1, {rows_of(w.add(Op::mul, 1, {rows_of(w.state()), rows_of(w.input(2))}))}));
  s.method = bosh3();
  const bool wide = sizeof(T) == 8;
  s.tolerance = wide ? T(1e-9) : T(1e-5);
  s.batch = 11;
  for (int i = 0; i < s.batch; ++i) s.y0.push_back(T(1 + 0.1 * i));
  s.own.resize(1);
  for (int i = 0; i < s.batch; ++i) s.own[0].push_back(T(0.2 * i));
  const double tolerance = wide ? 1e-7 : 1e-3;
  for (int threads : {1, 3}) {
    s.threads = threads;
    const Found<T> found = solved(isa, s);
    const std::vector<T> c = cotangent_of<T>(2 * s.batch);
    for (int i = 0; i < s.batch; ++i) {
      const double k = s.own[0][i], y = s.y0[i], end = y * std::exp(-k), g = c[s.batch + i];
      check(found.counts[i] == 0, "decay does not end well");
      check_near(found.ys[s.batch + i], end, tolerance, "decay");
      check_near(found.to_y0[i], c[i] + g * std::exp(-k), tolerance, "the gradient of decay to y0");
      check_near(found.to_own[0][i], -g * end, tolerance, "the gradient of decay to its rate");
      check_near(found.to_t1[i], -g * k * end, tolerance * 3, "the gradient of decay to t1");
      check_near(found.to_t0[i], g * k * end, tolerance * 3, "the gradient of decay to t0");
    }
  }
}

// A turn of the plane, back in time, at times of each row's own; the last row has but one.
template <class T>
void turn(const Isa& isa) {
  Writer w({1, 2}, {4});
  Setting<T> s;
  s.program = w.program(w.add(Op::linear, 2, {rows_of(w.state()), shared_tensor(0)}, {1, 2, 2}));
  s.shared = {{0, 1, -1, 0}};
  s.method = bosh3();
  const bool wide = sizeof(T) == 8;
  s.tolerance = wide ? T(1e-9) : T(1e-5);
  s.batch = 3;
  s.y0 = {1, 0, 0, 1, 2, 0};
  s.times = {0, 1, 2, -3, -1, 0};
  s.each_its_own = true;
  s.t_eval = {-0.5, 0.5, 1.5, -3, -0.25, NAN};
  const Found<T> found = solved(isa, s);
  for (int o = 0; o < 2; ++o)
    for (int i = 0; i < 3; ++i) {
      const double by = s.t_eval[o * 3 + i] - s.times[i], x = s.y0[2 * i], y = s.y0[2 * i + 1];
      const T* at = &found.ys[(o * 3 + i) * 2];
      if (std::isnan(by)) {
        check(std::isnan(at[0]) && std::isnan(at[1]), "an output at no time is not NaN");
      } else {
        check_near(at[0], x * std::cos(by) + y * std::sin(by), wide ? 1e-6 : 1e-3, "a turn");
        check_near(at[1], -x * std::sin(by) + y * std::cos(by), wide ? 1e-6 : 1e-3, "a turn");
      }
    }
}

// dy/dt = 2 t.
template <class T>
void time_alone(const Isa& isa) {
  Writer w({1, 1}, {});
  Setting<T> s;
  s.program = w.program(w.add(Op::add, 1, {one_of(w.time()), one_of(w.time())}));
  s.method = rk4();
  s.control.adaptive = false;
  s.control.first_step = 0.3;
  s.y0 = {5};
  s.times = {1, 3};
  const Found<T> found = solved(isa, s);
  const double g = cotangent_of<T>(2)[1], tolerance = sizeof(T) == 8 ? 1e-12 : 1e-4;
  check_near(found.ys[1], 13, tolerance, "an integral");
  check_near(found.to_t1[0], 6 * g, tolerance, "the gradient of an integral to its end");
  check_near(found.to_t0[0], -2 * g, tolerance, "the gradient of an integral to its start");
  check(found.counts[1] == 7 && found.counts[3] == 28, "an integral takes seven steps");
}

// Every operation in one program after the other, against central differences.

std::size_t arity(Op op) {
  if (op == Op::where) return 3;
  return op >= Op::add && op <= Op::ne ? 2 : 1;
}

Setting<double> with_operation(Op op) {
  const int D = 5;
  Writer w({1, D, D}, {D, D * D, D});
  const Value y = w.state(), bounded = w.add(Op::sigmoid, D, {rows_of(y)});  // defined everywhere
  Value x{};
  switch (op) {
    case Op::linear: x = w.linear(bounded, D, 1, 2); break;
    case Op::gather:
      x = w.add(op, D, {rows_of(bounded, 1), shared_tensor(0), rows_of(w.input(2))}, {0, 3, 1, 2, 0, 0, 2, 4, 0, 0});
      break;
    case Op::sum:
    case Op::amax: {
      const Value made = w.add(op, 1, {rows_of(bounded)}, {D});
      x = w.add(Op::mul, D, {one_of(made), rows_of(w.input(2))});
      break;
    }
    case Op::leaky_relu:
    case Op::power: x = w.add(op, D, {rows_of(bounded)}, {}, {1.7}); break;
    case Op::softplus: x = w.add(op, D, {rows_of(bounded)}, {}, {2, 20}); break;
    case Op::clamp: x = w.add(op, D, {rows_of(bounded)}, {}, {0.4, 0.6}); break;
    case Op::elu: x = w.add(op, D, {rows_of(y)}, {}, {1.3, 1.1, 0.7}); break;
    default: {
      const From operands[] = {rows_of(bounded), arity(op) == 3 ? rows_of(y) : rows_of(w.input(2)), shared_tensor(0)};
      x = w.add(op, D, {operands, operands + arity(op)});
    }
  }
  Setting<double> s;
  const Value timed = w.add(Op::mul, D, {rows_of(x), one_of(w.time())});
  s.program = w.program(w.add(Op::sub, D, {rows_of(timed), rows_of(y)}));
  s.method = rk4();
  s.control.adaptive = false;
  s.control.first_step = 0.25;
  s.batch = 3;
  std::mt19937 random(static_cast<unsigned>(op));
  std::uniform_real_distribution<double> uniform(0.2, 1);
  const auto numbers = [&](int n) {
    std::vector<double> made(n);
    for (double& x : made) x = uniform(random);
    return made;
  };
  s.y0 = numbers(3 * D);
  s.own = {numbers(3 * D)};
  s.shared = {numbers(D), numbers(D * D), numbers(D)};
  return s;
}

void operations_by_differences(const Isa& isa) {
  for (int code = 0; code < static_cast<int>(Op::count); ++code) {
    const Op op = static_cast<Op>(code);
    Setting<double> s = with_operation(op);
    const Found<double> found = solved(isa, s);
    const auto along = [&](std::vector<double>& x, const std::vector<double>& gradient) {
      double slope = 0;
      const std::vector<double> old = x;
      const auto moved = [&](double by) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = old[i] + by * std::sin(1.0 + static_cast<double>(i));
        return weighed(isa, s);
      };
      for (std::size_t i = 0; i < x.size(); ++i) slope += gradient[i] * std::sin(1.0 + static_cast<double>(i));
      const double eps = 1e-6, difference = (moved(eps) - moved(-eps)) / (2 * eps);
      x = old;
      check_near(slope, difference, 1e-6 * (1 + std::fabs(difference)), "the derivative of operation " + operations()[code]);
    };
    along(s.y0, found.to_y0);
    along(s.own[0], found.to_own[0]);
    for (std::size_t i = 0; i < s.shared.size(); ++i) along(s.shared[i], found.to_shared[i]);
  }
}

// Networks of many shapes: whatever the threads, whatever is kept, with rows that fail among them.

template <class T>
Setting<T> network(int dimension, int width, std::int64_t batch, unsigned seed) {
  Writer w({1, dimension, 1}, {width * (dimension + 1), width, dimension * width, dimension, 3});
  std::vector<int> index;
  for (int i = 0; i <= dimension; ++i) index.insert(index.end(), {i == dimension, i == dimension ? 0 : i});
  const Value timed = w.add(Op::gather, dimension + 1, {rows_of(w.state()), rows_of(w.time())}, index);
  const Value hidden = w.add(Op::tanh, width, {rows_of(w.linear(timed, width, 0, 1))});
  const Value out = w.linear(hidden, dimension, 2, 3);
  // own argument: 0 well, 1 NaN after t = 1/2, -5 a pole
  const Value kind = w.add(Op::mul, 1, {rows_of(w.input(2)), rows_of(w.time())});
  const Value late = w.add(Op::gt, 1, {rows_of(kind), shared_tensor(4)});
  const Value fate = w.add(Op::where, 1, {rows_of(late), shared_tensor(4, 1), shared_tensor(4, 2)});
  const Value steep = w.add(Op::mul, 1, {rows_of(fate), rows_of(kind)});
  const Value grown = w.add(Op::exp, dimension, {rows_of(w.add(Op::square, dimension, {rows_of(w.state())}))});
  const Value pole = w.add(Op::mul, dimension, {rows_of(grown), one_of(steep)});
  Setting<T> s;
  s.program = w.program(w.add(Op::add, dimension, {rows_of(out), rows_of(pole)}));
  s.batch = batch;
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto numbers = [&](std::size_t n, double scale) {
    std::vector<T> made(n);
    for (T& x : made) x = static_cast<T>(scale * normal(random));
    return made;
  };
  s.y0 = numbers(batch * dimension, 1);
  s.shared = {numbers(width * (dimension + 1), 1), numbers(width, 0.3), numbers(dimension * width, 1.0 / width), numbers(dimension, 0.1), {T(0.5), T(NAN), T(1)}};
  s.own = {std::vector<T>(batch)};
  return s;
}

template <class T>
void check_twins(const Isa& isa, Setting<T> s, const std::string& what) {
  s.threads = 1;
  const Found<T> found = solved(isa, s);
  for (std::int64_t row = 0; row < s.batch; ++row) {
    if (found.counts[row] != 0) continue;
    bool fine = std::isfinite(found.to_t0[row]) && std::isfinite(found.to_t1[row]) && std::isfinite(found.to_own[0][row]);
    for (int d = 0; d < s.program->dimension; ++d) fine &= std::isfinite(found.to_y0[row * s.program->dimension + d]);
    check(fine, what + ": a gradient of a sample that is well is not finite");
  }
  if (s.control.adaptive)  // otherwise what is not finite is accepted, and felt
    for (const auto& gradient : found.to_shared) check(finite(gradient), what + ": a shared gradient is not finite");
  constexpr std::int64_t some = 20'000, all = std::int64_t(1) << 28;
  using Way = std::tuple<int, std::int64_t, bool>;
  for (const auto& [threads, limit, timed] : {Way(1, 0, true), Way(2, some, true), Way(3, 0, true), Way(3, all, true),
                                             Way(2, some, false), Way(3, all, false)}) {
    s.threads = threads;
    s.memory_limit = limit;
    s.times_wanted = timed;
    const Found<T> twin = solved(isa, s);
    check(same(twin.ys, found.ys) && same(twin.counts, found.counts), what + ": outputs differ");
    check(same(twin.to_y0, found.to_y0) && same(twin.to_own, found.to_own), what + ": gradients of a sample differ");
    if (timed)
      check(same(twin.to_t0, found.to_t0) && same(twin.to_t1, found.to_t1) && same(twin.to_t_eval, found.to_t_eval),
            what + ": gradients to times differ");
    for (std::size_t n = 0; n < found.to_shared.size(); ++n) {
      double most = 0;
      for (T x : found.to_shared[n]) most = std::fmax(most, std::fabs(x));
      if (!finite(found.to_shared[n])) continue;
      for (std::size_t i = 0; i < found.to_shared[n].size(); ++i)
        check_near(twin.to_shared[n][i], found.to_shared[n][i], (sizeof(T) == 8 ? 1e-12 : 1e-4) * most, what + ": a shared gradient");
    }
  }
  s.times_wanted = true;
  for (int threads : {1, 3}) {
    s.threads = threads;
    const Found<T> unrecorded = solved(isa, s, false);
    check(same(unrecorded.ys, found.ys) && same(unrecorded.counts, found.counts), what + ": outputs differ where nothing is recorded");
  }
}

// Each step that is accepted is noted once, by numbers that are all written, and the solve is as without.
template <class T>
void check_notes(const Isa& isa, Setting<T> s, const std::string& what) {
  const Found<T> found = solved(isa, s, false);
  for (int threads : {1, 3}) {
    s.threads = threads;
    Notes<T> notes((1 + (s.stiff ? s.stiff->interpolant : s.method.interpolant).size()) * s.program->dimension);
    const Found<T> twin = solved(isa, s, false, static_cast<Trail<T>*>(&notes));
    check(same(twin.ys, found.ys), what + ": outputs differ where steps are noted");
    std::int64_t accepted = 0, noted = 0;
    for (std::int64_t i = 0; i < s.batch; ++i) accepted += twin.counts[2 * s.batch + i];
    for (const auto& part : notes.of_parts)
      for (const auto& step : part) noted += 1, check(finite(step), what + ": what is noted of a step is not finite");
    check(noted == accepted, what + ": steps are noted too often or too seldom");
  }
}

template <class T>
void networks(const Isa& isa) {
  const ExplicitMethod methods[] = {euler(), rk4(), bosh3(), heun()};
  unsigned seed = 0;
  for (const auto& [dimension, width] : {std::pair(1, 1), {3, 5}, {17, 33}, {70, 9}})
    for (std::int64_t batch : {1, 7, 41})
      for (const ExplicitMethod& m : methods)
        for (bool joint : {false, true}) {
          Setting<T> s = network<T>(dimension, width, batch, seed++);
          s.method = m;
          s.control.joint = joint;
          if (joint && dimension > 2 && seed % 2) s.control.parts = {1, dimension / 2 + 1, dimension};
          s.control.adaptive = m.error_order > 1;
          if (!s.control.adaptive) s.control.first_step = 0.23;
          if (seed % 3 == 1) s.t_eval = {0, 0.1, 0.11, 0.5, 1};
          if (!joint && seed % 3 == 2) {
            for (double t : {0.25, 1.0})
              for (std::int64_t i = 0; i < batch; ++i) s.t_eval.push_back(i % 3 == 2 && t == 1 ? NAN : t * (i % 4 + 1) / 4);
            s.each_its_own = true;
          }
          if (!joint && seed % 2) {
            s.times.assign(2 * batch, 0);
            for (std::int64_t i = 0; i < batch; ++i) s.times[batch + i] = s.each_its_own ? 1 : 1 + 0.1 * (i % 5);
          }
          const std::string what = std::string(isa.name) + ", setting " + std::to_string(seed) + ", " + std::to_string(dimension) +
                                   " features, " + std::to_string(batch) + " samples";
          check_twins(isa, s, what);
          check_notes(isa, s, what);
          if (joint || batch < 7) continue;
          s.own[0][2] = 1;  // some rows fail
          s.own[0][5] = -5;
          s.y0[3 * dimension] = NAN;
          s.control.max_steps = 300;
          check_twins(isa, s, what + ", some of which fail");
        }
}

// dy/dt = -k (y - cos t) - sin t, from gentle to stiff: the cosine itself.
template <class T>
void stiff(const Isa& isa) {
  Writer w({1, 1, 1}, {});
  const Value away = w.add(Op::sub, 1, {rows_of(w.state()), rows_of(w.add(Op::cos, 1, {rows_of(w.time())}))});
  const Value pull = w.add(Op::mul, 1, {rows_of(away), rows_of(w.input(2))});
  const Value sine = w.add(Op::sin, 1, {rows_of(w.time())});
  Setting<T> s;
  s.program = w.program(w.add(Op::neg, 1, {rows_of(w.add(Op::add, 1, {rows_of(pull), rows_of(sine)}))}));
  s.stiff = std::make_shared<RosenbrockMethod>(ros2());
  s.batch = 37;
  s.y0.assign(s.batch, 1);
  s.own.resize(1);
  for (int i = 0; i < s.batch; ++i) s.own[0].push_back(static_cast<T>(std::pow(10.0, i % 6)));
  s.tolerance = T(1e-5);
  for (int threads : {1, 3}) {
    s.threads = threads;
    const Found<T> found = solved(isa, s, false);
    for (int i = 0; i < s.batch; ++i) {
      check(found.counts[i] == 0, "a stiff solve does not end well");
      check_near(found.ys[s.batch + i], std::cos(1.0), 1e-3, "a stiff solve");
      check(found.counts[s.batch + i] < 2000, "a stiff solve takes many steps");
    }
  }
}

// Rosenbrock's steps of networks, some rows of which fail, by other numbers of threads.
template <class T>
void stiff_networks(const Isa& isa) {
  unsigned seed = 0;
  for (const auto& [dimension, width] : {std::pair(1, 1), {3, 5}, {17, 9}})
    for (std::int64_t batch : {1, 7, 41})
      for (bool joint : {false, true}) {
        Setting<T> s = network<T>(dimension, width, batch, seed++);
        s.stiff = std::make_shared<RosenbrockMethod>(ros2());
        s.control.joint = joint;
        if (joint && dimension > 2 && seed % 2) s.control.parts = {dimension - 1, dimension};
        s.control.max_steps = 300;
        if (seed % 2) s.t_eval = {0, 0.1, 0.11, 0.5, 1};
        if (!joint && batch > 1) {
          s.own[0][2] = 1;
          s.own[0][5] = -5;
          s.y0[3 * dimension] = NAN;
        }
        const Found<T> found = solved(isa, s, false);
        for (int threads : {2, 3}) {
          s.threads = threads;
          const Found<T> twin = solved(isa, s, false);
          check(same(twin.ys, found.ys) && same(twin.counts, found.counts), "stiff outputs differ by threads");
        }
      }
}

// Solves of several threads at once.
void crowd(const Isa& isa) {
  Setting<float> s = network<float>(5, 9, 50, 1);
  s.method = bosh3();
  s.threads = 2;
  const Found<float> alone = solved(isa, s);
  std::vector<std::thread> threads;
  std::vector<Found<float>> found(3);
  for (auto& mine : found)
    threads.emplace_back([&isa, &s, &mine] {
      Setting<float> own = s;
      for (int i = 0; i < 5; ++i) mine = solved(isa, own);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : found) check(mine.ys == alone.ys && mine.to_shared == alone.to_shared, "solves at once differ from one alone");
}

}  // namespace
}  // namespace thalweg

int main() {
  using namespace thalweg;
  for (const Isa* isa : available()) {
    poison(true);
    checks = solves = 0;
    decay<float>(*isa), decay<double>(*isa);
    turn<float>(*isa), turn<double>(*isa);
    time_alone<float>(*isa), time_alone<double>(*isa);
    operations_by_differences(*isa);
    networks<float>(*isa), networks<double>(*isa);
    stiff<float>(*isa), stiff<double>(*isa);
    stiff_networks<float>(*isa), stiff_networks<double>(*isa);
    crowd(*isa);
    std::printf("solves, %s: %d solves, %d claims\n", isa->name, solves.load(), checks.load());
    std::fflush(stdout);
  }
}
