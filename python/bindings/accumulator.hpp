// SPDX-License-Identifier: BSD-3-Clause
// The states of nll.LossAccumulator: one, or one a group. Python threads may use an accumulator at
// the same time: a gate is shut while its states are read or change, and nobody waits for the GIL
// behind it.
#pragma once

#include <memory>
#include <mutex>

#include "arguments.hpp"
#include "arrays.hpp"
#include "threads.hpp"

namespace nll::python {

// Holds bytes in C order.
using Rows = py::array_t<std::uint8_t, py::array::c_style>;

// Reads the states of `rows`, (k, S).
inline std::vector<State> states_of(const Rows& rows) {
    std::vector<State> states;
    const py::ssize_t count = rows.shape(0);
    states.reserve(static_cast<std::size_t>(count));
    for (py::ssize_t row = 0; row < count; ++row) try {
            states.push_back(State::from_bytes(
                {rows.data() + row * rows.shape(1), static_cast<std::size_t>(rows.shape(1))}));
        } catch (const std::invalid_argument& error) {
            if (count == 1) throw;
            throw std::invalid_argument("group " + std::to_string(row) + ": " + error.what());
        }
    return states;
}

// Merges states as bytes over the first axis: (k, n, S) -> (n, S).
inline Rows merged(const Rows& rows) {
    const py::ssize_t columns = rows.shape(1), size = rows.shape(2);
    Rows result(std::vector<py::ssize_t>{columns, size});
    for (py::ssize_t column = 0; column < columns; ++column) {
        const State state = nll::merge(rows.data() + column * size, rows.shape(0), columns * size);
        const State::Bytes bytes = state.to_bytes();
        std::copy(bytes.begin(), bytes.end(), result.mutable_data() + column * size);
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    return result;
}

class Accumulator {
public:
    // Takes native arguments; groups: -1 without. The weight may be missing though the kind has
    // some: then there is no update.
    Accumulator(const State::Kind& kind, const py::object& weight, const py::object& ignore_index,
                index_t axis, index_t index_base, const py::object& dtype, index_t groups)
        : kind_(kind),
          weight_(weight),
          dtype_(dtype),
          grouped_(groups >= 0),
          states_(grouped_ ? static_cast<std::size_t>(groups) : 1, State(kind)) {
        require_native(read(weight, options_.weight) && read(ignore_index, options_.ignore_index) &&
                       read(dtype, options_.dtype));
        options_.axis = axis;
        options_.index_base = index_base;
        options_.label_smoothing = kind.label_smoothing;
    }

    // Adds a batch. group: None without groups, or where they are the classes.
    void update(py::object input, py::object target, py::object sample_weight, py::object group) {
        Array from, labels, weights, groups;
        Options options = options_;
        const auto all_native = [&] {
            return read_floats(input, from) && read_integers(target, labels) &&
                   read_sample_weight(sample_weight, labels, weights, options) &&
                   (group.is_none() || read_integers(group, groups));
        };
        if (!all_native()) {
            const py::tuple native =
                call_python(packages().as_batch, input, target, sample_weight, group);
            input = native[0];
            target = native[1];
            sample_weight = native[2];
            group = native[3];
            require_native(all_native());
        }
        options.num_threads = threads_of_context();
        const detail::Collection to{
            kind_.function, states_, grouped_, group.is_none() ? nullptr : &groups, true, &gate_};
        run(from, options,
            [&] { detail::collect(to, {{&from, &labels, nullptr, nullptr, nullptr}, options}); });
    }

    // Merge others: those of an accumulator, or as bytes, (groups, S). All of them, or none.
    void merge(const Accumulator& other) { merge(other.snapshot()); }
    void merge_rows(const Rows& rows) { merge(states_of(rows)); }

    void reset() {
        const std::lock_guard hold(gate_);
        for (State& state : states_) state = State(kind_);
    }

    // Returns the bytes of all states, (S,) or (groups, S).
    Rows rows() const {
        const std::vector<State> states = snapshot();
        std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(states.size()), State::size};
        if (!grouped_) shape.erase(shape.begin());
        Rows rows(shape);
        std::uint8_t* to = rows.mutable_data();
        for (const State& state : states) {
            const State::Bytes bytes = state.to_bytes();
            to = std::copy(bytes.begin(), bytes.end(), to);
        }
        return rows;
    }

    // Returns the loss: a scalar of its dtype, or an array of double and its dtype.
    py::object compute(const py::object& reduction, const py::object& empty) const {
        Options options = options_;
        require_native(read(reduction, options.reduction) && read(empty, options.empty));
        const std::vector<State> states = snapshot();
        options.dtype = options.dtype.value_or(dtype_of(states));
        py::object element = dtype_;
        if (dtype_.is_none() && options.dtype == DType::bfloat16)
            element = py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
        if (!grouped_) return scalar_of(states[0].loss(options).value, *options.dtype, element);
        py::array_t<double> losses(static_cast<py::ssize_t>(states.size()));
        std::transform(states.begin(), states.end(), losses.mutable_data(),
                       [&](const State& state) { return state.loss(options).value; });
        if (element.is_none())
            element = options.dtype == DType::float16   ? packages().float16
                      : options.dtype == DType::float32 ? packages().float32
                                                        : packages().float64;
        return call_python(losses.attr("astype"), element);
    }
    py::object standard_error() const {
        return numbers<double>([](const State& state) { return state.standard_error(); });
    }
    py::object perplexity(const py::object& empty) const {
        Empty choice = Empty::nan;
        require_native(read(empty, choice));
        return numbers<double>([&](const State& state) { return state.perplexity(choice); });
    }
    py::object total_weight() const {
        return numbers<double>([](const State& state) { return state.total_weight(); });
    }
    py::object count() const {
        return numbers<index_t>([](const State& state) { return state.count(); });
    }
    py::object ignored() const {
        return numbers<index_t>([](const State& state) { return state.ignored(); });
    }

private:
    std::vector<State> snapshot() const {
        const std::lock_guard hold(gate_);
        return states_;
    }

    void merge(const std::vector<State>& others) {
        const std::lock_guard hold(gate_);
        std::vector<State> sums = states_;
        for (std::size_t i = 0; i < sums.size(); ++i) sums[i].merge(others[i]);
        for (std::size_t i = 0; i < sums.size(); ++i) std::swap(states_[i], sums[i]);
    }

    // Returns the widest dtype of the losses of all states.
    static DType dtype_of(const std::vector<State>& states) {
        std::optional<DType> widest;
        for (const State& state : states) {
            if (states.size() > 1 && state.count() == 0 && state.ignored() == 0) continue;
            const DType own = state.dtype();
            const bool half = own < DType::float32;
            if (!widest) widest = own;
            else if (*widest != own) widest = std::max(half ? DType::float32 : own, *widest);
        }
        return widest.value_or(DType::float64);
    }

    // Returns a number of each state: a scalar, or an array.
    template <class Number, class Of> py::object numbers(Of&& number_of) const {
        const std::vector<State> states = snapshot();
        if (grouped_) {
            py::array_t<Number> numbers(static_cast<py::ssize_t>(states.size()));
            std::transform(states.begin(), states.end(), numbers.mutable_data(), number_of);
            return numbers;
        }
        const Number number = number_of(states[0]);
        if constexpr (std::same_as<Number, double>) return scalar_of(number, DType::float64);
        else return py::int_(number);
    }

    const State::Kind kind_;
    Options options_;
    const py::object weight_, dtype_;  // weight_ keeps what options_ points at
    const bool grouped_;
    std::vector<State> states_;  // of a fixed size: a sweep under way knows where they are
    mutable std::mutex gate_;
};

inline void define_accumulator(py::module_& m) {
    const py::metaclass plain(reinterpret_cast<PyObject*>(&PyType_Type));  // as the stubs say
    py::class_<State::Kind>(m, "Kind", plain)
        .def(py::init([](bool is_cross_entropy, double label_smoothing, const py::object& weight) {
            Weight of_classes;
            require_native(read(weight, of_classes));
            const auto function =
                is_cross_entropy ? LossFunction::cross_entropy : LossFunction::nll_loss;
            return State(function, of_classes, label_smoothing).kind();
        }))
        .def_static("of", [](const Rows& state) { return states_of(state).at(0).kind(); })
        .def("check", [](const State::Kind& kind,
                         const State::Kind& other) { State(kind).merge(State(other)); })
        .def_property_readonly(
            "is_cross_entropy",
            [](const State::Kind& kind) { return kind.function == LossFunction::cross_entropy; })
        .def_property_readonly("has_weights",
                               [](const State::Kind& kind) { return kind.weights >= 0; })
        .def_readonly("label_smoothing", &State::Kind::label_smoothing);
    py::class_<Accumulator>(m, "Accumulator", plain)
        .def(py::init<const State::Kind&, const py::object&, const py::object&, index_t, index_t,
                      const py::object&, index_t>())
        .def("update", &Accumulator::update)
        .def("merge", py::overload_cast<const Accumulator&>(&Accumulator::merge))
        .def("merge_rows", &Accumulator::merge_rows)
        .def("reset", &Accumulator::reset)
        .def("rows", &Accumulator::rows)
        .def("compute", &Accumulator::compute)
        .def("standard_error", &Accumulator::standard_error)
        .def("perplexity", &Accumulator::perplexity)
        .def("total_weight", &Accumulator::total_weight)
        .def("count", &Accumulator::count)
        .def("ignored", &Accumulator::ignored);
    m.def("merge", &merged);
    m.attr("state_size") = State::size;
}

}  // namespace nll::python
