#include "program.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace thalweg {

namespace {

const char* const NAMES[] = {
#define THALWEG_OPERATION(name) #name,
#include "operations.def"
#undef THALWEG_OPERATION
};

// Rows that are free, for the first that fits.
class Rows {
public:
    int take(int count) {
        for (auto it = free_.begin(); it != free_.end(); ++it) {
            if (it->second >= count) {
                const int row = it->first;
                it->first += count;
                it->second -= count;
                if (it->second == 0) free_.erase(it);
                return row;
            }
        }
        if (!free_.empty() && free_.back().first + free_.back().second == end_) {  // grow the last run
            const int row = free_.back().first;
            free_.pop_back();
            end_ = row + count;
            return row;
        }
        end_ += count;
        return end_ - count;
    }

    void give(int row, int count) {
        if (count == 0) return;
        auto it = std::lower_bound(free_.begin(), free_.end(), std::pair(row, 0));
        it = free_.insert(it, {row, count});
        if (auto next = it + 1; next != free_.end() && it->first + it->second == next->first) {
            it->second += next->second;
            free_.erase(next);
        }
        if (it != free_.begin()) {
            auto before = it - 1;
            if (before->first + before->second == it->first) {
                before->second += it->second;
                free_.erase(it);
            }
        }
    }

    int end() const { return end_; }

private:
    std::vector<std::pair<int, int>> free_;  // (row, count), in order
    int end_ = 0;
};

[[noreturn]] void malformed(const std::string& what) { throw std::invalid_argument("malformed program: " + what); }

void expect(bool holds, const char* what) {
    if (!holds) malformed(what);
}

// How many rows an operand is read for.
int extent(const Instruction& code, std::size_t operand) {
    const Operand& x = code.operands[operand];
    switch (code.op) {
        case Op::linear: {
            const int repeats = code.index[0], rows = code.index[1], columns = code.index[2];
            return operand == 0 ? repeats * columns : operand == 1 ? rows * columns : rows;
        }
        case Op::sum:
        case Op::amax: return code.size * code.index[0];
        case Op::gather: {
            int last = 0;
            for (int i = 0; i < code.size; ++i)
                if (code.index[2 * i] == static_cast<int>(operand)) last = std::max(last, code.index[2 * i + 1] + 1);
            return last;
        }
        default: return x.stride == 0 ? 1 : code.size;
    }
}

std::size_t arity(Op op) {
    switch (op) {
        case Op::where: return 3;
        case Op::add: case Op::sub: case Op::mul: case Op::div: case Op::pow: case Op::minimum: case Op::maximum:
        case Op::fmod: case Op::remainder: case Op::atan2: case Op::copysign:
        case Op::gt: case Op::ge: case Op::lt: case Op::le: case Op::eq: case Op::ne: return 2;
        default: return 1;
    }
}

std::size_t numbers(Op op) {
    switch (op) {
        case Op::leaky_relu: case Op::power: return 1;
        case Op::softplus: case Op::clamp: return 2;
        case Op::elu: return 3;
        default: return 0;
    }
}

void check(const Program& p, const Instruction& code, int made) {
    expect(code.size > 0, "an instruction makes no rows");
    expect(code.scalars.size() == numbers(code.op), "an instruction has a wrong count of numbers");
    switch (code.op) {
        case Op::linear:
            expect(code.operands.size() == 2 || code.operands.size() == 3, "linear takes x, a weight and perhaps a bias");
            expect(code.index.size() == 3, "linear has three sizes");
            expect(code.index[0] > 0 && code.index[1] > 0 && code.index[2] > 0, "linear has sizes above 0");
            expect(code.size == code.index[0] * code.index[1], "linear makes repeats times R rows");
            expect(!code.operands[0].shared && code.operands[1].shared, "linear multiplies a value by a shared weight");
            expect(code.operands.size() == 2 || code.operands[2].shared, "the bias of linear is shared");
            break;
        case Op::gather:
            expect(code.index.size() == 2u * code.size, "gather has two numbers for each row");
            for (int i = 0; i < code.size; ++i) {
                expect(code.index[2 * i] >= 0 && code.index[2 * i] < static_cast<int>(code.operands.size()) &&
                           code.index[2 * i + 1] >= 0,
                       "gather reads an operand that is not there");
            }
            break;
        case Op::sum:
        case Op::amax: expect(code.index.size() == 1 && code.index[0] > 0, "a reduction has a length");
            [[fallthrough]];
        default: expect(code.operands.size() == arity(code.op), "an instruction has a wrong count of operands");
    }
    for (std::size_t i = 0; i < code.operands.size(); ++i) {
        const Operand& x = code.operands[i];
        const auto& sizes = x.shared ? p.shared : p.sizes;
        const int bound = x.shared ? static_cast<int>(p.shared.size()) : made;
        expect(x.number >= 0 && x.number < bound, "an operand is not made yet");
        expect(x.row >= 0 && (x.stride == 0 || x.stride == 1), "an operand has a wrong row or stride");
        expect(x.row + extent(code, i) <= sizes[x.number], "an operand ends after its value");
    }
}

Layout lay(const Program& p, bool record) {
    const int values = static_cast<int>(p.sizes.size());
    const std::vector<int>& last = p.last_reader;
    std::vector<char> kept(values, 0);
    for (int i = 0; record && i < static_cast<int>(p.code.size()); ++i) {
        const Instruction& code = p.code[i];
        for (const Operand& x : code.operands)
            if (!x.shared && saves(code.op).inputs) kept[x.number] = 1;
        if (saves(code.op).output) kept[p.inputs + i] = 1;
    }

    Layout layout;
    layout.home.resize(values);
    layout.home[0] = {Place::time, 0};
    layout.home[1] = {Place::state, 0};
    for (int v = 2, row = 0; v < p.inputs; row += p.sizes[v++]) layout.home[v] = {Place::own, row};

    // Results that dy/dt is put together from are written to their rows of it at once; `Code` gathers what is left.
    std::vector<int> row_of_slope(values, -1);
    if (p.direct_output && p.maker(p.output.number).op == Op::gather) {
        const Instruction& code = p.maker(p.output.number);
        for (int row = 0; row < code.size; ++row) {
            const Operand& x = code.operands[code.index[2 * row]];
            if (x.shared || x.number < p.inputs || kept[x.number] || row_of_slope[x.number] >= 0) continue;
            int count = 0;  // rows of it that follow here, from its first one
            while (row + count < code.size && code.index[2 * (row + count)] == code.index[2 * row] &&
                   x.row + code.index[2 * (row + count) + 1] == count)
                ++count;
            if (count == p.sizes[x.number]) row_of_slope[x.number] = row;
        }
    }

    Rows rows;
    for (int i = 0; i < static_cast<int>(p.code.size()); ++i) {
        const Instruction& code = p.code[i];
        const int made = p.inputs + i;
        int reused = -1;  // the operand whose rows the result takes over
        if (p.direct_output && made == p.output.number) {
            layout.home[made] = {Place::slope, 0};
            layout.reads_slope = kept[made] != 0;
        } else if (row_of_slope[made] >= 0) {
            layout.home[made] = {Place::slope, row_of_slope[made]};
        } else if (kept[made]) {
            layout.home[made] = {Place::saved, layout.saved};
            layout.saved += code.size;
        } else {
            if (elementwise(code.op))
                for (const Operand& x : code.operands) {
                    if (x.shared || x.stride != 1 || x.row != 0 || last[x.number] != i) continue;
                    if (layout.home[x.number].place != Place::scratch || p.sizes[x.number] != code.size) continue;
                    const bool alike = std::all_of(code.operands.begin(), code.operands.end(), [&](const Operand& z) {
                        return z.shared || z.number != x.number || (z.row == 0 && z.stride == 1);
                    });
                    if (alike) reused = x.number;
                }
            layout.home[made] = {Place::scratch, reused >= 0 ? layout.home[reused].row : rows.take(code.size)};
        }
        std::vector<int> ending;
        for (const Operand& x : code.operands)
            if (!x.shared && last[x.number] == i && x.number != reused) ending.push_back(x.number);
        if (last[made] < 0) ending.push_back(made);
        std::sort(ending.begin(), ending.end());
        ending.erase(std::unique(ending.begin(), ending.end()), ending.end());
        for (int v : ending)
            if (v >= p.inputs && layout.home[v].place == Place::scratch) rows.give(layout.home[v].row, p.sizes[v]);
    }
    layout.scratch = rows.end();
    return layout;
}

}  // namespace

std::vector<std::string> operations() { return {std::begin(NAMES), std::end(NAMES)}; }

Saves saves(Op op) {
    switch (op) {
        case Op::amax: case Op::pow: case Op::remainder: return {true, true};
        case Op::linear: case Op::where: case Op::mul: case Op::div: case Op::minimum: case Op::maximum: case Op::abs:
        case Op::square: case Op::log: case Op::log1p: case Op::sin: case Op::cos: case Op::leaky_relu: case Op::elu:
        case Op::gelu: case Op::gelu_tanh: case Op::silu: case Op::softplus: case Op::clamp: case Op::power:
        case Op::fmod: case Op::atan2: case Op::copysign: case Op::log2: case Op::erf: case Op::erfc: case Op::lgamma:
        case Op::digamma: return {true, false};
        case Op::reciprocal: case Op::sqrt: case Op::rsqrt: case Op::exp: case Op::expm1: case Op::exp2:
        case Op::tanh: case Op::sigmoid: case Op::relu: case Op::erfinv: return {false, true};
        default: return {false, false};
    }
}

// Whether the way back adds to the adjoint of an operand.
bool reaches(const Instruction& code, std::size_t operand) {
    switch (code.op) {
        case Op::gt: case Op::ge: case Op::lt: case Op::le: case Op::eq: case Op::ne: case Op::sign:
        case Op::floor: case Op::round: return false;
        case Op::where: return operand > 0;
        case Op::copysign: return operand == 0;
        default: return true;
    }
}

// Whether it knows how to write each row that it reaches once, instead of adding to it.
bool writes_all(const Instruction& code, std::size_t operand) {
    switch (code.op) {
        case Op::gather: case Op::sum: case Op::amax: case Op::where: return false;
        case Op::pow: return operand == 0 && code.operands[0].stride == 1;
        case Op::linear: return true;
        default: return code.operands[operand].stride == 1;
    }
}

bool elementwise(Op op) { return op != Op::linear && op != Op::gather && op != Op::sum && op != Op::amax; }

// So many rows of results, and of the state, of which a step has some eight copies, stay in the first cache where a row is
// four registers.
constexpr int LIGHT_ROWS = 96;

void Program::lay_out() {
    const int values = static_cast<int>(sizes.size());
    direct_output = output.number >= inputs && output.row == 0 && sizes[output.number] == dimension;
    last_reader.assign(values, -1);
    for (int i = 0; i < static_cast<int>(code.size()); ++i)
        for (const Operand& x : code[i].operands)
            if (!x.shared) last_reader[x.number] = i;
    last_reader[output.number] = static_cast<int>(code.size());
    plain = lay(*this, false);
    record = lay(*this, true);
    const auto is_linear = [](const Instruction& one) { return one.op == Op::linear; };
    light = plain.scratch + 8 * dimension <= LIGHT_ROWS && std::none_of(code.begin(), code.end(), is_linear);
    adjoint.assign(values, {});
    for (int v = 0; v < values; ++v) {
        const bool keep = v >= inputs && maker(v).op == Op::linear;
        int& rows = keep ? kept_rows : adjoint_rows;
        adjoint[v] = {keep ? Place::saved : Place::scratch, rows};
        rows += sizes[v];
    }
    std::vector<char> met(values, 0), summed_up(values, 1);
    met[output.number] = 1;
    summed_up[output.number] = output.row != 0 || sizes[output.number] != dimension;
    for (auto i = code.rbegin(); i != code.rend(); ++i) {
        i->founds.assign(i->operands.size(), 0);
        for (std::size_t n = 0; n < i->operands.size(); ++n) {
            const Operand& x = i->operands[n];
            if (x.shared || met[x.number] || !reaches(*i, n)) continue;
            met[x.number] = 1;
            i->founds[n] = writes_all(*i, n) && x.row == 0 && extent(*i, n) == sizes[x.number];
            summed_up[x.number] = !i->founds[n];
        }
    }
    summed.clear();
    for (int v = 0; v < values; ++v)
        if (summed_up[v]) summed.push_back(v);
}

Program parse(const std::vector<int>& inputs, const std::vector<int>& shared, const std::vector<int>& code,
              const std::vector<double>& scalars, const std::vector<int>& output) {
    Program p;
    expect(inputs.size() >= 2 && inputs[0] == 1, "the first inputs are the time and the state");
    for (int size : inputs) expect(size > 0, "an input has no rows");
    p.inputs = static_cast<int>(inputs.size());
    p.dimension = inputs[1];
    p.sizes = inputs;
    for (int v = 2; v < p.inputs; ++v) p.own += inputs[v];
    p.shared = shared;
    std::size_t at = 0, number = 0;
    const auto next = [&] {
        expect(at < code.size(), "its code ends early");
        return code[at++];
    };
    while (at < code.size()) {
        Instruction i;
        const int op = next();
        expect(op >= 0 && op < static_cast<int>(Op::count), "an operation is unknown");
        i.op = static_cast<Op>(op);
        i.size = next();
        for (int n = next(); n > 0; --n) {
            Operand x;
            x.shared = next() != 0;
            x.number = next();
            x.row = next();
            x.stride = next();
            i.operands.push_back(x);
        }
        for (int n = next(); n > 0; --n) i.index.push_back(next());
        for (int n = next(); n > 0; --n) {
            expect(number < scalars.size(), "its numbers end early");
            i.scalars.push_back(scalars[number++]);
        }
        check(p, i, static_cast<int>(p.sizes.size()));
        p.sizes.push_back(i.size);
        p.code.push_back(std::move(i));
    }
    expect(output.size() == 2, "the output is a value and a row");
    p.output = {false, output[0], output[1], 1};
    expect(p.output.number >= 0 && p.output.number < static_cast<int>(p.sizes.size()) && p.output.row >= 0 &&
               p.output.row + p.dimension <= p.sizes[p.output.number],
           "the output is no run of rows");
    p.lay_out();
    return p;
}

}  // namespace thalweg
