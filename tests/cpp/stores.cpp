// SPDX-License-Identifier: BSD-3-Clause
// Copies past the caches, and the two writers of gradients, a part at a time: at every alignment
// memory holds what was asked for, and nothing beside it is touched.
#include <nll/detail/gradient_writer.hpp>
#include <nll/detail/one_hot_writer.hpp>

#include <initializer_list>
#include <random>
#include <vector>

#include "check.hpp"

using namespace nll;
using namespace nll::detail;

namespace {

constexpr std::byte untouched{0xee};

// Memory of so many elements, `shift` elements after the start of a cache line, amid other memory.
template <class T> class Guarded {
public:
    Guarded(index_t size, index_t shift)
        : bytes_((size + shift) * sizeof(T) + 4 * cache_line, untouched), size_(size) {
        const auto place = reinterpret_cast<std::uintptr_t>(bytes_.data()) % cache_line;
        first_ = 2 * cache_line - static_cast<index_t>(place) + shift * index_t{sizeof(T)};
    }
    T* data() { return reinterpret_cast<T*>(bytes_.data() + first_); }
    // Tells whether these elements are there, and the others as they were.
    bool holds(const std::vector<T>& elements) const { return holds(elements, size_); }
    // Tells it of the first `written` of these elements.
    bool holds(const std::vector<T>& elements, index_t written) const {
        const auto begin = bytes_.begin() + first_, end = begin + written * index_t{sizeof(T)};
        const auto as_it_was = [](std::byte byte) { return byte == untouched; };
        return std::all_of(bytes_.begin(), begin, as_it_was) &&
               (written == 0 || std::memcmp(&*begin, elements.data(), written * sizeof(T)) == 0) &&
               std::all_of(end, bytes_.end(), as_it_was);
    }

private:
    std::vector<std::byte> bytes_;
    index_t size_, first_;
};

// ---------------------------------------------------------------- copies

// A copy has copied what comes before the first whole line at once, lines as asked for, and what is
// left when it is finished.
void copies() {
    std::vector<std::byte> source(2000);
    for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 7 % 251);
    for (index_t shift = 0; shift < cache_line; ++shift)
        for (const index_t size : {0, 1, 63, 64, 65, 127, 128, 200, 333, 1000})
            for (const index_t from : {0, 1, 32})
                for (const index_t lines : {1, 2, 7, 100}) {
                    Guarded<std::byte> memory(size, shift);
                    const std::vector<std::byte> expected(source.begin() + from,
                                                          source.begin() + from + size);
                    DeferredCopy copy(memory.data(), source.data() + from, size);
                    index_t written = std::min(size, (cache_line - shift) % cache_line);
                    const index_t whole = (size - written) / cache_line * cache_line + written;
                    for (;;) {
                        CHECK(memory.holds(expected, written));
                        CHECK(copy.pending() == (written < size));
                        if (written == whole) break;
                        copy.copy(lines);
                        written = std::min(whole, written + lines * cache_line);
                    }
                    copy.copy(lines);  // of no lines
                    copy.finish();
                    CHECK(!copy.pending() && memory.holds(expected));
                    copy.finish();
                    CHECK(memory.holds(expected));
                    Guarded<std::byte> at_once(size, shift);
                    stream(at_once.data(), source.data() + from, size);
                    CHECK(at_once.holds(expected));
                }
    DeferredCopy none;
    none.copy(3);
    none.finish();
    CHECK(!none.pending());
}

// ---------------------------------------------------------------- one entry a sample

std::mt19937_64 random_bits(5);
index_t below(index_t limit) {
    return static_cast<index_t>(random_bits() % static_cast<std::uint64_t>(limit));
}

// Returns element number i of some that all differ.
template <class Scalar> Scalar numbered(index_t i) {
    if constexpr (sizeof(Scalar) == 2) return {static_cast<std::uint16_t>(i % 0x7000 + 1)};
    else return static_cast<Scalar>(i + 1);
}

std::vector<index_t> random_classes(index_t samples, index_t classes) {
    std::vector<index_t> found(samples);
    for (index_t& c : found) c = below(classes + 1) - 1;
    return found;
}

// Rows of up to 64 classes in registers, if the processor has such; written by parts of lines.
template <class Scalar> void one_hot_rows() {
    static OneHotRows<Scalar> rows;
    for (index_t classes = 1; rows.serves(classes); ++classes)
        for (const index_t samples : {index_t{1}, index_t{33}, rows.most_rows})
            for (const bool differ : {false, true}) {
                const index_t shift = below(cache_line / index_t{sizeof(Scalar)});
                const std::vector<index_t> targets = random_classes(samples, classes);
                std::vector<Scalar> entries(samples + rows.beyond);
                for (index_t i = 0; i < samples; ++i) entries[i] = numbered<Scalar>(i);
                std::vector<Scalar> expected(samples * classes, Scalar{});
                for (index_t i = 0; i < samples; ++i)
                    if (targets[i] != ignored)
                        expected[i * classes + targets[i]] = entries[differ ? i : 0];
                Guarded<Scalar> memory(samples * classes, shift);
                rows.begin(memory.data(), samples, classes, targets.data(), entries.data(), differ);
                while (rows.pending()) rows.copy(1 + below(9));
                rows.finish();
                CHECK(memory.holds(expected));
            }
#if defined(__AVX512BW__)
    CHECK(rows.serves(64) && !rows.serves(65));
#else
    CHECK(!rows.serves(1));
#endif
}

// Strides of an (N, C, D) array whose axes are so in memory.
std::array<index_t, 3> strides_of(const std::array<index_t, 3>& shape,
                                  const std::array<int, 3>& order) {
    std::array<index_t, 3> strides;
    index_t stride = 1;
    for (int a = 2; a >= 0; --a) {
        strides[order[a]] = stride;
        stride *= shape[order[a]];
    }
    return strides;
}

constexpr std::array<int, 3> orders[] = {{0, 1, 2}, {0, 2, 1}, {2, 1, 0}, {1, 0, 2}};
constexpr std::array<index_t, 3> shapes[] = {{1, 1, 1},    {700, 10, 1}, {3, 20000, 1},
                                             {1, 5, 1500}, {2, 7, 600},  {40, 70, 4},
                                             {17, 229, 3}, {530, 65, 1}};

// Calls visit(sample, offset of its class 0 in the gradient), in the order of a plan.
template <class Visit> void for_each_sample(const Plan& plan, Visit&& visit) {
    plan.samples.for_each(gradient, 0, plan.samples.count,
                          [&](index_t i, index_t offset) { visit(i, offset); });
}

// Returns elements that nobody has touched.
template <class Scalar> std::vector<Scalar> untouched_elements(index_t size) {
    std::vector<Scalar> elements(size);
    std::memset(static_cast<void*>(elements.data()), static_cast<int>(untouched),
                size * sizeof(Scalar));
    return elements;
}

// The parts of a block that are streamed between other work are those that it was asked for. In
// memory there is room for `padding` more classes.
template <class Scalar>
void one_hot_gradient(const std::array<index_t, 3>& shape, const std::array<int, 3>& order,
                      index_t padding, Store store, bool differ) {
    const index_t N = shape[0], C = shape[1], D = shape[2], size = N * (C + padding) * D;
    const auto strides = strides_of({N, C + padding, D}, order);
    Guarded<Scalar> memory(size, below(33));
    const std::vector<std::int32_t> no_labels(N * D);
    const std::vector<double> weight(C, 1.0);
    const Array of_gradient(View<Scalar, 3>{memory.data(), shape, strides});
    const Array of_target(View<const std::int32_t, 2>{no_labels.data(), {N, D}});
    Options options;
    if (differ) options.weight = View<const double, 1>{weight.data(), {C}};
    Plan plan({nullptr, &of_target, nullptr, nullptr, &of_gradient}, 1, options);
    plan.store = store;
    plan.grad_output = -2;
    const std::vector<index_t> classes = random_classes(N * D, C);
    std::vector<double> weights(N * D);
    for (double& w : weights) w = differ ? 0.25 * static_cast<double>(below(100)) : 1;
    std::vector<Scalar> expected = untouched_elements<Scalar>(size);
    for_each_sample(plan, [&](index_t i, index_t offset) {
        for (index_t c = 0; c < C; ++c) {
            const index_t at = offset + c * plan.class_stride[gradient];
            expected[at] = c == classes[i] ? from_double<Scalar>(2 * weights[i]) : Scalar{};
            if (store == Store::entries_only) memory.data()[at] = Scalar{};
        }
    });
    OneHotWriter<Scalar> writer(plan);
    const index_t block = writer.block();
    for_each_block(0, N * D, block, [&](index_t first, index_t count) {
        writer.write(first, count, classes.data() + first, weights.data() + first);
        // Some blocks are streamed whole before the next, some in part, some not at all.
        for (index_t parts = below(6); parts > 0 && writer.pending(); --parts)
            writer.pump(1 + below(block));
    });
    writer.finish();
    CHECK(!writer.pending() && memory.holds(expected));
}

// ---------------------------------------------------------------- all classes of a sample

// A loop's way with the writer: rows in chunks, or tiles of a block in parts of their classes.
template <class Scalar>
void whole_gradient(const std::array<index_t, 3>& shape, const std::array<int, 3>& order,
                    index_t padding, Store store, bool by_rows, bool stages) {
    const index_t N = shape[0], C = shape[1], D = shape[2], size = N * (C + padding) * D;
    Guarded<Scalar> memory(size, below(33));
    const std::vector<std::int32_t> no_labels(N * D);
    const Array of_gradient(
        View<Scalar, 3>{memory.data(), shape, strides_of({N, C + padding, D}, order)});
    const Array of_target(View<const std::int32_t, 2>{no_labels.data(), {N, D}});
    const Options options;
    Plan plan({nullptr, &of_target, nullptr, nullptr, &of_gradient}, 1, options);
    plan.store = store;
    std::vector<Scalar> expected = untouched_elements<Scalar>(size);
    for_each_sample(plan, [&](index_t i, index_t offset) {
        for (index_t c = 0; c < C; ++c)
            expected[offset + c * plan.class_stride[gradient]] = numbered<Scalar>(i * C + c);
    });

    constexpr index_t block = 96, pitch = 32;
    alignas(cache_line) static Scalar buffer[buffer_bytes / sizeof(Scalar)];
    const index_t part = std::min<index_t>(C, index_t{std::size(buffer)} / pitch);
    std::vector<Scalar> staging(GradientWriter<Scalar>::staging_size(plan, block));
    if (stages && staging.empty()) return;
    GradientWriter<Scalar> writer(plan, block, pitch, buffer, stages ? staging.data() : nullptr);
    if (by_rows) {
        for_each_sample(plan, [&](index_t i, index_t offset) {
            Scalar* const row = memory.data() + offset;
            for_each_block(0, C, 1 + below(chunk_size), [&](index_t first, index_t classes) {
                Scalar* const to = writer.place_row(row, first);
                for (index_t c = 0; c < classes; ++c) to[c] = numbered<Scalar>(i * C + first + c);
                writer.commit_row(row, first, classes, to);
            });
        });
    } else {
        for_each_block(0, N * D, block, [&](index_t begin, index_t samples) {
            writer.begin_block(begin);
            for_each_block(begin, begin + samples, pitch, [&](index_t first, index_t count) {
                const TileSamples tile{first, count, padded(count)};
                for_each_block(0, C, part, [&](index_t c0, index_t classes) {
                    const auto placed = writer.place_tile(tile, c0);
                    for (index_t c = 0; c < classes; ++c)
                        for (index_t i = 0; i < count; ++i)
                            placed.to[c * placed.pitch + i] =
                                numbered<Scalar>((first + i) * C + c0 + c);
                    writer.commit_tile(tile, c0, classes, placed);
                });
            });
            writer.end_block(samples);
        });
    }
    writer.finish();
    CHECK(memory.holds(expected));
}

template <class Scalar> void gradients() {
    one_hot_rows<Scalar>();
    for (const auto& shape : shapes)
        for (const auto& order : orders)
            for (const index_t padding : {0, 3}) {
                for (const Store store : {Store::cached, Store::streamed, Store::entries_only})
                    for (const bool differ : {false, true})
                        one_hot_gradient<Scalar>(shape, order, padding, store, differ);
                for (const Store store : {Store::cached, Store::streamed}) {
                    whole_gradient<Scalar>(shape, order, padding, store, true, false);
                    whole_gradient<Scalar>(shape, order, padding, store, false, false);
                    whole_gradient<Scalar>(shape, order, padding, store, false, true);
                }
            }
}

}  // namespace

int main() {
    copies();
    gradients<float>();
    gradients<double>();
    gradients<bfloat16>();
    return failures() != 0;
}
