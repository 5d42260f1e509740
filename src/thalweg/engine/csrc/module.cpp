// The extension module thalweg.core._native: it chooses the set of instructions and hands pointers on.

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <variant>
#include <vector>

#include "isa.hpp"
#include "objects.hpp"

namespace nb = nanobind;

namespace thalweg {
namespace {

const Isa& named(const std::string& name) {
  std::string names;
  for (const Isa* isa : available()) {
    if (name == isa->name) return *isa;
    names += (names.empty() ? "" : ", ") + std::string(isa->name);
  }
  throw std::invalid_argument("'" + name + "' is no set of instructions of this machine; it has " + names);
}

// THALWEG_ISA of the environment, else the widest.
const Isa& chosen() {
  const char* name = std::getenv("THALWEG_ISA");
  static const Isa& isa = name ? named(name) : *available().back();
  return isa;
}

// The same, but by narrow tiles where one tile would hold the batch, and by wide ones for light work on samples with steps of
// their own, where there are two for each core of the machine; tiles that step together take turns anyway.
const Isa& chosen_for(const Program& program, const Control& control, std::int64_t batch, bool doubles) {
  static const std::int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const Isa& isa = chosen();
  const auto lanes = [&](const Isa& of) { return doubles ? of.lanes_double : of.lanes_float; };
  if (isa.narrow && batch <= lanes(isa)) return *isa.narrow;
  if (isa.wide && program.light && !control.joint && batch >= 2 * cores * lanes(*isa.wide)) return *isa.wide;
  return isa;
}

std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const Isa* isa : available()) names.emplace_back(isa->name);
  return names;
}

[[noreturn]] void unknown(const std::string& name) {
  throw std::invalid_argument("'" + name + "' is no elementary function of the engine");
}

Unary unary_named(const std::string& name) {
#define X(function) \
  if (name == #function) return Unary::function##_;
  THALWEG_UNARY(X)
#undef X
  unknown(name);
}

Binary binary_named(const std::string& name) {
#define X(function) \
  if (name == #function) return Binary::function##_;
  THALWEG_BINARY(X)
#undef X
  unknown(name);
}

void unary(const std::string& name, const std::string& isa, const std::string& dtype, std::uintptr_t in,
           std::uintptr_t out, std::size_t n) {
  const Unary function = unary_named(name);
  if (dtype == "float32")
    named(isa).unary_float(function, reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), n);
  else if (dtype == "float64")
    named(isa).unary_double(function, reinterpret_cast<const double*>(in), reinterpret_cast<double*>(out), n);
  else
    throw std::invalid_argument("dtype is '" + dtype + "'; the engine has float32 and float64");
}

void binary(const std::string& name, const std::string& isa, const std::string& dtype, std::uintptr_t first,
            std::uintptr_t second, std::uintptr_t out, std::size_t n) {
  const Binary function = binary_named(name);
  if (dtype == "float32")
    named(isa).binary_float(function, reinterpret_cast<const float*>(first), reinterpret_cast<const float*>(second),
                            reinterpret_cast<float*>(out), n);
  else if (dtype == "float64")
    named(isa).binary_double(function, reinterpret_cast<const double*>(first), reinterpret_cast<const double*>(second),
                             reinterpret_cast<double*>(out), n);
  else
    throw std::invalid_argument("dtype is '" + dtype + "'; the engine has float32 and float64");
}

// Python's pointers are integers.
template <class P>
P pointer(std::uintptr_t address) {
  return reinterpret_cast<P>(address);
}

template <class P>
std::vector<P> pointers(const std::vector<std::uintptr_t>& addresses) {
  std::vector<P> result;
  for (std::uintptr_t address : addresses) result.push_back(pointer<P>(address));
  return result;
}

// The way back of a solve, in either dtype.
struct Recording {
  std::unique_ptr<Tape<float>> single;
  std::unique_ptr<Tape<double>> wide;

  template <class T>
  Tape<T>& tape() {
    if constexpr (std::is_same_v<T, float>)
      return *single;
    else
      return *wide;
  }
};

// The steps of a solve as they were taken, part by part, in either dtype.
template <class T>
class Noted final : public Trail<T> {
 public:
  explicit Noted(std::size_t numbers) : numbers_(numbers) {}

  void parts(int count) override { parts_.resize(count); }
  T* note(int part, std::int64_t sample, double t, double h) override {
    Part& to = parts_[part];
    to.steps.push_back({sample, t, h});
    to.numbers.resize(to.steps.size() * numbers_);
    return to.numbers.data() + to.numbers.size() - numbers_;
  }

  // The most steps of a sample.
  std::int64_t length(std::int64_t batch) const {
    std::vector<std::int64_t> taken(batch);
    for (const Part& part : parts_)
      for (const Step& step : part.steps) ++taken[step.sample];
    return *std::max_element(taken.begin(), taken.end());
  }

  // Step n of a sample goes to row n of each: t and h (rows, batch), y (rows, batch, D), slopes (S, rows, batch, D). What is
  // there of the steps that it does not take stays.
  void deal_out(std::int64_t rows, std::int64_t batch, std::int64_t dimension, double* t, double* h, T* y, T* slopes) const {
    std::vector<std::int64_t> taken(batch);
    for (const Part& part : parts_) {
      const T* from = part.numbers.data();
      for (const Step& step : part.steps) {
        const std::int64_t at = taken[step.sample]++ * batch + step.sample;
        t[at] = step.t, h[at] = step.h;
        std::copy_n(from, dimension, y + at * dimension);
        for (std::size_t s = 0; (s + 1) * dimension < numbers_; ++s)
          std::copy_n(from + (s + 1) * dimension, dimension, slopes + (s * rows * batch + at) * dimension);
        from += numbers_;
      }
    }
  }

 private:
  struct Step {
    std::int64_t sample;
    double t, h;
  };
  struct Part {
    std::vector<Step> steps;
    std::vector<T> numbers;
  };

  const std::size_t numbers_;  // of one step
  std::vector<Part> parts_;
};

struct Steps {
  std::int64_t batch, dimension;
  std::unique_ptr<Noted<float>> single;
  std::unique_ptr<Noted<double>> wide;

  std::int64_t length() const { return single ? single->length(batch) : wide->length(batch); }
  void deal_out(std::int64_t rows, nb::handle t, nb::handle h, nb::handle y, nb::handle slopes) const;
};

using Addresses = std::vector<std::uintptr_t>;

Addresses addresses_of(nb::handle tensors) {
  Addresses result;
  for (nb::handle tensor : tensors) result.push_back(address_of(tensor));
  return result;
}

// Whether a signal has come that Python makes an exception of, which is then set.
bool interrupted() {
  const nb::gil_scoped_acquire lock;
  return PyErr_CheckSignals() != 0;
}

// What f returns, without Python's lock; where it was interrupted, Python's exception.
template <class F>
auto interruptible(F f) {
  try {
    const nb::gil_scoped_release release;
    Interruption interruption(interrupted);
    return f(&interruption);
  } catch (const Interrupted&) {
    throw nb::python_error();
  }
}

// What is the same in every call of a solve. Times and tolerances are memory of others; `…_own` says whether each sample has
// times of its own, and each entry of the state a tolerance.
struct Solve {
  bool wide;
  std::shared_ptr<Program> program;
  std::variant<std::shared_ptr<ExplicitMethod>, std::shared_ptr<RosenbrockMethod>> method;
  std::shared_ptr<Control> control;
  std::uintptr_t times;
  bool times_own;
  std::uintptr_t t_eval;
  std::int64_t outputs;
  bool t_eval_own;
  std::uintptr_t rtol;
  bool rtol_own;
  std::uintptr_t atol;
  bool atol_own;
  std::int64_t memory_limit;
};

// What differs from call to call.
struct Call {
  std::int64_t batch;
  std::uintptr_t y0;
  Addresses own, shared;
  int threads;
  std::uintptr_t ys, counts, ends;
  bool record, times_wanted;
  Steps* steps;  // null where nobody looks inside of them
};

void Steps::deal_out(std::int64_t rows, nb::handle t, nb::handle h, nb::handle y, nb::handle slopes) const {
  const auto go = [&]<class T>(const Noted<T>& noted) {
    noted.deal_out(rows, batch, dimension, pointer<double*>(address_of(t)), pointer<double*>(address_of(h)),
                   pointer<T*>(address_of(y)), pointer<T*>(address_of(slopes)));
  };
  if (single)
    go(*single);
  else
    go(*wide);
}

template <class T>
Task<T> task(const Solve& solve, const Call& call, Interruption* interruption) {
  const std::int64_t batch = call.batch;
  Task<T> task;
  task.batch = batch;
  task.y0 = pointer<const T*>(call.y0);
  const auto* t = pointer<const double*>(solve.times);
  task.t0 = {t, solve.times_own};
  task.t1 = {t + (solve.times_own ? batch : 1), solve.times_own};
  task.t_eval = pointer<const double*>(solve.t_eval);
  task.outputs = solve.outputs;
  task.output_step = solve.t_eval_own ? batch : 1;
  task.sample_step = solve.t_eval_own;
  task.own = pointers<const T*>(call.own);
  task.shared = pointers<const T*>(call.shared);
  task.rtol = pointer<const T*>(solve.rtol);
  task.rtol_step = solve.rtol_own;
  task.atol = pointer<const T*>(solve.atol);
  task.atol_step = solve.atol_own;
  task.threads = call.threads;
  task.interruption = interruption;
  task.ys = pointer<T*>(call.ys);
  auto* n = pointer<std::int64_t*>(call.counts);
  task.status = n, task.n_steps = n + batch, task.n_accepted = n + 2 * batch;
  task.nfev = n + 3 * batch, task.njev = n + 4 * batch, task.nlu = n + 5 * batch;
  auto* end = pointer<double*>(call.ends);
  task.t_end = end, task.h_end = end + batch;
  task.memory_limit = solve.memory_limit;
  task.record = call.record;
  task.times_wanted = call.times_wanted;
  if (call.steps) {
    if constexpr (std::is_same_v<T, float>)
      task.trail = call.steps->single.get();
    else
      task.trail = call.steps->wide.get();
  }
  return task;
}

// By the function of the set of instructions that is for a method and a dtype; null where it records nothing.
template <class T>
Tape<T>* carry(const std::shared_ptr<Program>& program, const ExplicitMethod& method, const Control& control, Task<T> task) {
  const Isa& isa = chosen_for(*program, control, task.batch, sizeof(T) == sizeof(double));
  if constexpr (std::is_same_v<T, float>)
    return isa.explicit_float(program, method, control, std::move(task));
  else
    return isa.explicit_double(program, method, control, std::move(task));
}
template <class T>
Tape<T>* carry(const std::shared_ptr<Program>& program, const RosenbrockMethod& method, const Control& control, Task<T> task) {
  if (task.record) throw std::invalid_argument("the engine records the steps of explicit methods alone");
  const Isa& isa = chosen_for(*program, control, task.batch, sizeof(T) == sizeof(double));
  if constexpr (std::is_same_v<T, float>)
    isa.rosenbrock_float(*program, method, control, std::move(task));
  else
    isa.rosenbrock_double(*program, method, control, std::move(task));
  return nullptr;
}

using Ran = std::tuple<std::unique_ptr<Recording>, std::int64_t, std::array<std::int64_t, 5>, std::array<double, 2>>;

// What the way back needs, the worst status of any sample, and of the first sample, which speaks for all in a joint solve, the
// counts after the status and where it ended. Where there is no room for the counts and ends of all, nobody asks for them.
Ran run_noting(const Solve& solve, std::int64_t batch, nb::handle y0, nb::handle own, nb::handle shared, int threads,
               nb::handle ys, nb::handle counts_of_each, nb::handle ends_of_each, bool record, bool times_wanted, Steps* steps) {
  auto recording = std::make_unique<Recording>();
  std::vector<std::int64_t> counts_of_all;
  std::vector<double> ends_of_all;
  std::uintptr_t counts = address_of(counts_of_each), ends = address_of(ends_of_each);
  if (!counts) {
    counts_of_all.resize(6 * batch);
    counts = reinterpret_cast<std::uintptr_t>(counts_of_all.data());
  }
  if (!ends) {
    ends_of_all.resize(2 * batch);
    ends = reinterpret_cast<std::uintptr_t>(ends_of_all.data());
  }
  if (poisoned()) {
    const std::size_t numbers = static_cast<std::size_t>(solve.outputs) * batch * solve.program->dimension;
    fill_with_nan(pointer<void*>(address_of(ys)), numbers * (solve.wide ? sizeof(double) : sizeof(float)));
    fill_with_nan(pointer<void*>(counts), 6 * sizeof(std::int64_t) * batch);
    fill_with_nan(pointer<void*>(ends), 2 * sizeof(double) * batch);
  }
  const Call call{batch,  address_of(y0), addresses_of(own), addresses_of(shared), threads, address_of(ys), counts, ends,
                  record, times_wanted, steps};
  const auto go = [&]<class T>(std::unique_ptr<Tape<T>>& tape, Interruption* interruption) {
    std::visit(
        [&](const auto& method) {
          tape.reset(carry(solve.program, *method, *solve.control, task<T>(solve, call, interruption)));
        },
        solve.method);
  };
  interruptible([&](Interruption* interruption) {
    if (solve.wide)
      go(recording->wide, interruption);
    else
      go(recording->single, interruption);
  });
  const auto* n = pointer<const std::int64_t*>(counts);
  const auto* end = pointer<const double*>(ends);
  const std::array<std::int64_t, 5> counts_of_first{n[batch], n[2 * batch], n[3 * batch], n[4 * batch], n[5 * batch]};
  const std::array<double, 2> ends_of_first{end[0], end[batch]};
  return {record ? std::move(recording) : nullptr, *std::max_element(n, n + batch), counts_of_first, ends_of_first};
}

Ran run(const Solve& solve, std::int64_t batch, nb::handle y0, nb::handle own, nb::handle shared, int threads, nb::handle ys,
        nb::handle counts_of_each, nb::handle ends_of_each, bool record, bool times_wanted) {
  return run_noting(solve, batch, y0, own, shared, threads, ys, counts_of_each, ends_of_each, record, times_wanted, nullptr);
}

// The same without a way back, and the steps that were taken.
std::tuple<Ran, Steps> run_with_steps(const Solve& solve, std::int64_t batch, nb::handle y0, nb::handle own, nb::handle shared,
                                      int threads, nb::handle ys, nb::handle counts_of_each, nb::handle ends_of_each) {
  const std::size_t dimension = solve.program->dimension;
  const std::size_t slopes = std::visit([](const auto& method) { return method->interpolant.size(); }, solve.method);
  Steps steps{batch, static_cast<std::int64_t>(dimension), nullptr, nullptr};
  if (solve.wide)
    steps.wide = std::make_unique<Noted<double>>((slopes + 1) * dimension);
  else
    steps.single = std::make_unique<Noted<float>>((slopes + 1) * dimension);
  Ran ran = run_noting(solve, batch, y0, own, shared, threads, ys, counts_of_each, ends_of_each, false, false, &steps);
  return {std::move(ran), std::move(steps)};
}

// Where gradients go, read while Python may be asked.
struct Gradients {
  std::uintptr_t cotangent, y0, t0, t1, t_eval;
  Addresses own, shared;
};

template <class T>
std::int64_t pull_back(Recording& recording, const Gradients& to, Interruption* interruption) {
  Back<T> back;
  back.interruption = interruption;
  back.cotangent = pointer<const T*>(to.cotangent);
  back.y0 = pointer<T*>(to.y0);
  back.t0 = pointer<double*>(to.t0);
  back.t1 = pointer<double*>(to.t1);
  back.t_eval = pointer<double*>(to.t_eval);
  back.own = pointers<T*>(to.own);
  back.shared = pointers<T*>(to.shared);
  recording.tape<T>().pull_back(back);
  return back.nfev;
}

template <class T>
const Sums<T>& sums() {
  if constexpr (std::is_same_v<T, float>)
    return chosen().sums_float;
  else
    return chosen().sums_double;
}

// The stages (S, rows x entries) of the steps of a solve, and the rows of its method that sum them: memory of others.
template <class T>
class Stages {
 public:
  Stages(std::uintptr_t stages, std::size_t rows, std::size_t entries, std::uintptr_t weights, std::size_t stride)
      : stages_(pointer<T*>(stages)), rows_(rows), entries_(entries), weights_(pointer<const T*>(weights)),
        stride_(stride) {}

  // Steps of one size for all.
  void resize(double size) { size_ = static_cast<T>(size), sizes_.clear(); }
  // Steps of a size for each row.
  void resize_rows(std::uintptr_t sizes) {
    sizes_.resize(rows_ * entries_);
    sums<T>().spread(pointer<const double*>(sizes), rows_, entries_, sizes_.data());
  }

  // The slope k is that stage.
  void put(std::size_t stage, std::uintptr_t k) {
    const std::size_t n = rows_ * entries_;
    std::memcpy(stages_ + stage * n, pointer<const T*>(k), n * sizeof(T));
  }

  // out = [base +] size sum_j w_j k_j, by the first `count` numbers of a row of weights.
  void sum(std::size_t row, int count, std::uintptr_t base, std::uintptr_t out) const {
    sums<T>().sum_stages(stages_, rows_ * entries_, weights_ + row * stride_, count, pointer<const T*>(base),
                         sizes_.empty() ? nullptr : sizes_.data(), size_, pointer<T*>(out));
  }

 private:
  T* stages_;
  std::size_t rows_, entries_;
  const T* weights_;
  std::size_t stride_;
  T size_ = 0;
  std::vector<T> sizes_;
};

template <class T>
void measure(std::uintptr_t x, std::uintptr_t y, std::uintptr_t z, std::uintptr_t atol, double rtol, std::size_t rows,
             std::size_t entries, std::uintptr_t out) {
  sums<T>().measure(pointer<T*>(x), pointer<const T*>(y), pointer<const T*>(z), *pointer<const T*>(atol),
                    static_cast<T>(rtol), rows, entries, pointer<double*>(out));
}

template <class T>
void stage_times(std::uintptr_t t, std::uintptr_t h, std::uintptr_t c, std::size_t count, std::size_t rows, std::uintptr_t out) {
  sums<T>().stage_times(pointer<const double*>(t), pointer<const double*>(h), pointer<const double*>(c), count, rows,
                        pointer<T*>(out));
}

// out = a where a row is marked, else b; of each row so many bytes.
void select_rows(std::uintptr_t marks, std::uintptr_t a, std::uintptr_t b, std::size_t rows, std::size_t bytes,
                 std::uintptr_t out) {
  const auto* marked = pointer<const std::uint8_t*>(marks);
  for (std::size_t row = 0; row < rows; ++row)
    std::memcpy(pointer<char*>(out) + row * bytes, pointer<const char*>(marked[row] ? a : b) + row * bytes, bytes);
}

// Counts one more for each row that is marked.
void count_rows(std::uintptr_t marks, std::size_t rows, std::uintptr_t counts) {
  const auto* marked = pointer<const std::uint8_t*>(marks);
  auto* const count = pointer<std::int64_t*>(counts);
  for (std::size_t row = 0; row < rows; ++row) count[row] += marked[row];
}

// The settling of steps by one controller; in a call, the rows, the evaluations, and addresses in the order of `Settling`.
struct Settler {
  double safety, least, most, power, spacing, slack;

  std::tuple<std::size_t, bool> operator()(std::size_t rows, std::int64_t evaluations, const Addresses& in,
                                           std::uintptr_t numbers, std::uintptr_t flags, std::uintptr_t n_steps,
                                           std::uintptr_t nfev) const {
    const auto read = [&](std::size_t i) { return pointer<const double*>(in.at(i)); };
    const auto flag = [&](std::size_t i) { return pointer<const std::uint8_t*>(in.at(i)); };
    const auto number = [&](std::size_t i) { return pointer<double*>(numbers) + i * rows; };
    const auto mark = [&](std::size_t i) { return pointer<std::uint8_t*>(flags) + i * rows; };
    const Settling step{safety,  least,   most,    power,     spacing,   slack,     evaluations, read(0), read(1),
                        read(2), read(3), read(4), read(5),   read(6),   flag(7),   flag(8),     number(0), number(1),
                        number(2), number(3), mark(0), mark(1), mark(2), mark(3),
                        pointer<std::int64_t*>(n_steps), pointer<std::int64_t*>(nfev)};
    const Settled found = chosen().settle(step, rows);
    return {found.going, found.failing};
  }
};

template <class T>
void add_stages(nb::module_& m, const char* name) {
  nb::class_<Stages<T>>(m, name)
      .def(nb::init<std::uintptr_t, std::size_t, std::size_t, std::uintptr_t, std::size_t>())
      .def("resize", &Stages<T>::resize)
      .def("resize_rows", &Stages<T>::resize_rows)
      .def("put", &Stages<T>::put)
      .def("sum", &Stages<T>::sum);
}

}  // namespace
}  // namespace thalweg

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // caches of programs live as long as the process
  using namespace thalweg;
  m.def("isa", [] { return std::string(chosen().name); });
  m.def("isas", names);
  m.def("unary", unary, nb::arg("name"), nb::arg("isa"), nb::arg("dtype"), nb::arg("input"), nb::arg("output"),
        nb::arg("n"));
  m.def("binary", binary, nb::arg("name"), nb::arg("isa"), nb::arg("dtype"), nb::arg("first"), nb::arg("second"),
        nb::arg("output"), nb::arg("n"));

  m.def("operations", operations);
  m.def("poison", poison, nb::arg("on"));

  nb::class_<Program>(m, "Program")
      .def(nb::new_([](const std::vector<int>& inputs, const std::vector<int>& shared, const std::vector<int>& code,
                       const std::vector<double>& scalars, const std::vector<int>& output) {
             return std::make_shared<Program>(parse(inputs, shared, code, scalars, output));
           }),
           nb::arg("inputs"), nb::arg("shared"), nb::arg("code"), nb::arg("scalars"), nb::arg("output"))
      .def_prop_ro("saved", [](const Program& self) { return self.record.saved; })
      .def_prop_ro("scratch", [](const Program& self) { return self.plain.scratch; });

  using Rows = std::vector<std::vector<double>>;
  using Row = std::vector<double>;
  nb::class_<ExplicitMethod>(m, "ExplicitMethod")
      .def("__init__", [](ExplicitMethod* self, int stages, double error_order, Rows interpolant, bool fsal, Row c, Rows a,
                          Row b, Row b_error, Row b_coarse) {
        const int extra = static_cast<int>(a.size()) - stages;
        new (self) ExplicitMethod{{stages, error_order, std::move(interpolant)}, extra, fsal, std::move(c), std::move(a),
                                  std::move(b), std::move(b_error), std::move(b_coarse)};
      });
  nb::class_<RosenbrockMethod>(m, "RosenbrockMethod")
      .def("__init__", [](RosenbrockMethod* self, int stages, double error_order, Rows interpolant, double gamma, Row alpha,
                          Row gamma_sums, Rows a, Rows c, Row weights, Row error) {
        new (self) RosenbrockMethod{{stages, error_order, std::move(interpolant)}, gamma, std::move(alpha),
                                    std::move(gamma_sums), std::move(a), std::move(c), std::move(weights), std::move(error)};
      });

  nb::class_<Control>(m, "Control")
      .def("__init__", [](Control* self, bool adaptive, bool joint, double p, double i, double d, double safety, double least,
                          double most, double first_step, double max_step, double min_step, std::int64_t max_steps,
                          std::vector<int> parts) {
        new (self) Control{adaptive, joint,      p,        i,        d,         safety,          least,
                           most,     first_step, max_step, min_step, max_steps, std::move(parts)};
      });

  nb::class_<Recording>(m, "Recording").def("bytes", [](const Recording& self) {
    return self.single ? self.single->bytes() : self.wide->bytes();
  });

  nb::class_<Solve>(m, "Solve")
      .def("__init__", [](Solve* self, bool wide, std::shared_ptr<Program> program, decltype(Solve::method) method,
                          std::shared_ptr<Control> control, std::uintptr_t times, bool times_own, std::uintptr_t t_eval,
                          std::int64_t outputs, bool t_eval_own, std::uintptr_t rtol, bool rtol_own, std::uintptr_t atol,
                          bool atol_own, std::int64_t memory_limit) {
        new (self) Solve{wide,   std::move(program), std::move(method), std::move(control), times, times_own, t_eval, outputs,
                         t_eval_own, rtol, rtol_own, atol, atol_own, memory_limit};
      })
      .def("run", run, nb::arg("batch"), nb::arg("y0"), nb::arg("own"), nb::arg("shared"), nb::arg("threads"), nb::arg("ys"),
           nb::arg("counts").none(), nb::arg("ends").none(), nb::arg("record"), nb::arg("times_wanted"))
      .def("run_with_steps", run_with_steps, nb::arg("batch"), nb::arg("y0"), nb::arg("own"), nb::arg("shared"),
           nb::arg("threads"), nb::arg("ys"), nb::arg("counts").none(), nb::arg("ends").none());
  nb::class_<Steps>(m, "Steps").def("length", &Steps::length).def("deal_out", &Steps::deal_out);

  add_stages<float>(m, "StagesFloat");
  add_stages<double>(m, "StagesDouble");
  m.def("measure_float", measure<float>);
  m.def("measure_double", measure<double>);
  m.def("stage_times_float", stage_times<float>);
  m.def("stage_times_double", stage_times<double>);
  m.def("select_rows", select_rows);
  m.def("count_rows", count_rows);

  nb::class_<Settler>(m, "Settler")
      .def("__init__", [](Settler* self, double safety, double least, double most, double power, double spacing, double slack) {
        new (self) Settler{safety, least, most, power, spacing, slack};
      })
      .def("__call__", &Settler::operator());

  bind_objects(m);

  m.def("pull_back", [](Recording& recording, nb::handle cotangent, nb::handle y0, nb::handle t0, nb::handle t1,
                        nb::handle t_eval, nb::handle own, nb::handle shared) {
    const Gradients to{address_of(cotangent), address_of(y0),    address_of(t0),     address_of(t1),
                       address_of(t_eval),    addresses_of(own), addresses_of(shared)};
    return interruptible([&](Interruption* interruption) {
      return recording.single ? pull_back<float>(recording, to, interruption) : pull_back<double>(recording, to, interruption);
    });
  }, nb::arg("recording"), nb::arg("cotangent"), nb::arg("y0").none(), nb::arg("t0").none(), nb::arg("t1").none(),
     nb::arg("t_eval").none(), nb::arg("own"), nb::arg("shared"));
}
