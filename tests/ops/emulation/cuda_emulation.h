// Runs the project's CUDA kernels on the CPU, one fibre per thread, so that every index, barrier and reduction of a kernel
// is executed by tests on machines without a GPU. Only what the kernels use is here. Blocks run one after another; the
// threads of a block are switched at barriers and at warp operations alone, in an order that the test chooses: a missing
// barrier shows as a result that depends on that order. In the hasty orders one warp runs as far as it can before another. Shared memory starts as NaN in every block.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class Order { forward, backward, shuffled, hasty, hasty_backward };
enum class Wait { none, block, warp, done };

// Where a fibre stands. `slot` holds what the lane contributes to a warp operation, twice: a lane can be one operation
// ahead of another lane that still reads the last one.
struct Fibre {
  ucontext_t context{};
  std::vector<char> stack;
  void* sanitizer_stack = nullptr;
  Wait wait = Wait::none;
  unsigned thread = 0;
  unsigned operations = 0;
  unsigned char slot[2][64];
  int kind[2];
};

struct Machine {
  std::vector<Fibre> fibres;
  ucontext_t scheduler{};
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
  Fibre* current = nullptr;
  std::function<void()> body;
  Order order = Order::forward;
  std::map<int, std::pair<void*, size_t>> shared;
  uint64_t random = 88172645463325252ull;
  uint64_t switches = 0;
  std::string error;
};

inline Machine& machine() {
  static Machine instance;
  return instance;
}

inline void to_fibre(Machine& m, Fibre& fibre) {
  m.current = &fibre;
  threadIdx = dim3{fibre.thread, 0, 0};
  ++m.switches;
#if defined(__SANITIZE_ADDRESS__)
  void* saved = nullptr;
  __sanitizer_start_switch_fiber(&saved, fibre.stack.data(), fibre.stack.size());
  swapcontext(&m.scheduler, &fibre.context);
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#else
  swapcontext(&m.scheduler, &fibre.context);
#endif
}

inline void to_scheduler(Machine& m, bool finished) {
  Fibre& fibre = *m.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &fibre.sanitizer_stack, m.scheduler_stack, m.scheduler_stack_size);
#else
  (void)finished;
#endif
  swapcontext(&fibre.context, &m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fibre.sanitizer_stack, nullptr, nullptr);
#endif
}

inline void start() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_stack_size);
#endif
  m.body();
  m.current->wait = Wait::done;
  to_scheduler(m, true);
}

inline void prepare(Machine& m, unsigned threads) {
  if (m.fibres.size() < threads) m.fibres.resize(threads);
  for (unsigned t = 0; t < threads; ++t) {
    Fibre& fibre = m.fibres[t];
    if (fibre.stack.empty()) fibre.stack.resize(size_t(1) << 16);
    fibre.thread = t;
    fibre.wait = Wait::none;
    fibre.operations = 0;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, start, 0);
  }
}

inline unsigned pick(Machine& m, unsigned step, unsigned count, unsigned offset) {
  if (m.order == Order::forward || m.order == Order::hasty) return step;
  if (m.order == Order::backward || m.order == Order::hasty_backward) return count - 1 - step;
  return (step * 101 + offset) % count;  // 101 is prime and no block size is a multiple of it
}

// Lets those go on whose barrier is complete: all threads of the block, or all 32 lanes of a warp.
inline bool release(Machine& m, unsigned first, unsigned count, Wait kind) {
  for (unsigned t = first; t < first + count; ++t)
    if (m.fibres[t].wait != kind) return false;
  for (unsigned t = first; t < first + count; ++t) m.fibres[t].wait = Wait::none;
  return true;
}

// Runs once every thread of [first, first + count) that can go on; returns how many ended, and whether any ran.
inline unsigned sweep(Machine& m, unsigned first, unsigned count, bool& progress) {
  m.random = m.random * 6364136223846793005ull + 1442695040888963407ull;
  const unsigned offset = unsigned(m.random >> 40) % count;
  unsigned done = 0;
  for (unsigned step = 0; step < count; ++step) {
    Fibre& fibre = m.fibres[first + pick(m, step, count, offset)];
    if (fibre.wait != Wait::none) continue;
    to_fibre(m, fibre);
    progress = true;
    if (fibre.wait == Wait::done) ++done;
  }
  for (unsigned warp = first; warp + 32 <= first + count; warp += 32) progress |= release(m, warp, 32, Wait::warp);
  return done;
}

inline void run_block(Machine& m, unsigned threads) {
  const bool hasty = m.order == Order::hasty || m.order == Order::hasty_backward;
  prepare(m, threads);
  for (auto& entry : m.shared) std::memset(entry.second.first, 0xFF, entry.second.second);
  for (unsigned done = 0; done < threads;) {
    bool progress = false;
    const unsigned count = hasty ? 32 : threads;
    for (unsigned first = 0; first < threads; first += count) {
      const unsigned start = m.order == Order::hasty_backward ? threads - count - first : first;
      bool ran = false;
      do {
        ran = false;
        done += sweep(m, start, count, ran);
        progress |= ran;
      } while (hasty && ran);
    }
    progress |= release(m, 0, threads, Wait::block);
    if (!progress) throw std::runtime_error("emulated block is stuck: a barrier is not reached by all of its threads");
  }
  if (!m.error.empty()) throw std::runtime_error(std::exchange(m.error, {}));
}

template <typename F>
void run(dim3 grid, unsigned threads, F&& body) {
  Machine& m = machine();
  if (threads % 32 != 0 || threads > 1024) throw std::runtime_error("block size must be a multiple of 32, at most 1024");
  m.body = body;
  gridDim = grid;
  blockDim = dim3{threads, 1, 1};
  for (unsigned x = 0; x < grid.x; ++x) {
    blockIdx = dim3{m.order == Order::backward ? grid.x - 1 - x : x, 0, 0};
    run_block(m, threads);
  }
}

inline void wait(Wait kind) {
  machine().current->wait = kind;
  to_scheduler(machine(), false);
}

template <typename T, int line>
T& shared() {
  static_assert(sizeof(T) <= 48 * 1024, "static shared memory is at most 48 KiB");
  Machine& m = machine();
  static const int key = int(m.shared.size());
  auto& entry = m.shared[key];
  if (entry.first == nullptr) {
    entry = {std::malloc(sizeof(T)), sizeof(T)};
    std::memset(entry.first, 0xFF, entry.second);
  }
  return *static_cast<T*>(entry.first);
}

// Hands `value` to the other lanes of the warp and returns where lane l's value stands.
template <typename T>
std::function<T(unsigned)> exchange(const T& value, int kind) {
  static_assert(sizeof(T) <= 64);
  Machine& m = machine();
  Fibre& fibre = *m.current;
  const unsigned parity = fibre.operations++ & 1u;
  std::memcpy(fibre.slot[parity], &value, sizeof(T));
  fibre.kind[parity] = kind;
  const unsigned first = fibre.thread & ~31u;
  wait(Wait::warp);
  for (unsigned lane = 0; lane < 32; ++lane)
    if (m.fibres[first + lane].kind[parity] != kind) m.error = "lanes of a warp met in different operations";
  return [&m, first, parity](unsigned lane) {
    T other;
    std::memcpy(&other, m.fibres[first + lane].slot[parity], sizeof(T));
    return other;
  };
}

inline float from_half_bits(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const float sign = (bits & 0x8000) ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa + 1024), exponent - 25);
}

inline float from_bfloat16_bits(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Cuts a sum to float32 towards zero, the coarsest rounding a tensor core is known to do.
inline float toward_zero(double value) {
  float cut = float(value);
  if (std::isfinite(cut) && std::fabs(double(cut)) > std::fabs(value)) cut = std::nextafter(cut, 0.0f);
  return cut;
}

struct Fragments {
  uint32_t a[4], b[2];
};

// mma.sync.m16n8k16 by the element positions that the PTX manual lists for its operands: element i of A (i < 8) is row
// lane/4 (+8 when i is 2, 3, 6 or 7) and column lane%4*2 + i%2 (+8 from i = 4); element i of B (i < 4) is row
// lane%4*2 + i%2 (+8 from i = 2) and column lane/4.
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool half) {
  Fragments own;
  std::memcpy(own.a, a, sizeof(a));
  std::memcpy(own.b, b, sizeof(b));
  const auto of_lane = exchange(own, half ? 101 : 102);
  const auto number = [half](uint32_t word, int high) {
    const uint16_t bits = uint16_t(high ? word >> 16 : word);
    return double(half ? from_half_bits(bits) : from_bfloat16_bits(bits));
  };
  const unsigned lane = threadIdx.x & 31u;
  for (int i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
    double sum = d[i];
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned element_a = (k % 2) + (row >= 8 ? 2 : 0) + (k >= 8 ? 4 : 0);
      const unsigned element_b = (k % 2) + (k >= 8 ? 2 : 0);
      const Fragments left = of_lane(row % 8 * 4 + k % 8 / 2), right = of_lane(column * 4 + k % 8 / 2);
      sum += number(left.a[element_a / 2], element_a % 2) * number(right.b[element_b / 2], element_b % 2);
    }
    d[i] = toward_zero(sum);
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::Wait::block); }
inline void __syncwarp() { emulation::exchange(0, 1); }
inline unsigned __ballot_sync(unsigned, bool set) {
  const auto of_lane = emulation::exchange(set, 2);
  unsigned word = 0;
  for (unsigned lane = 0; lane < 32; ++lane) word |= unsigned(of_lane(lane)) << lane;
  return word;
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const auto of_lane = emulation::exchange(value, 3);
  return of_lane((threadIdx.x & 31u) ^ unsigned(mask));
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulation::exchange(value, 4)(unsigned(lane));
}
inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}
