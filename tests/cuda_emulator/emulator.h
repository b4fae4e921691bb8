// A GPU for kernels compiled by g++: one block at a time, its threads taking turns on this one.
//
// A warp runs until all its threads wait for others at a barrier, and then the next one has its turn.
// So what lies between two barriers happens as far apart in time as it may: a thread that reads what
// another has yet to write finds it missing. Shared memory begins as NaN in every block.
// If all threads wait for each other, the launch fails; so it does if memory is read or written in
// pieces that do not begin at a multiple of their size, which a GPU cannot do.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("emulated_shared")))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct Index {
  unsigned x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

enum { MOST = 1024, STACK = 1 << 16, LANES = 32 };

struct Gate {  // opens when all who are still running have arrived
  long opened = 0;
  int arrived = 0, running = 0;
  void check() {
    if (arrived && arrived == running) ++opened, arrived = 0;
  }
};

struct Thread {
  ucontext_t start;
  jmp_buf place;
  bool started, done;
  const long* gate;
  long seen;
  int shuffles;
};

static Thread threads[MOST];
static char* stacks;
static Gate block, warps[MOST / LANES];
static double slots[MOST / LANES][2][LANES];
static jmp_buf scheduler;
static int current, count;
static void (*body)();

static bool misaligned;

static void wait(Gate& gate) {
  Thread& me = threads[current];
  const long seen = gate.opened;
  ++gate.arrived;
  gate.check();
  if (gate.opened != seen) return;
  me.gate = &gate.opened;
  me.seen = seen;
  if (!_setjmp(me.place)) _longjmp(scheduler, 1);
}

static void end() {
  threads[current].done = true;
  Gate* gates[] = {&block, &warps[current / LANES]};
  for (Gate* gate : gates) --gate->running, gate->check();
  _longjmp(scheduler, 1);
}

static void run() {
  body();
  end();
}

static bool turn(int number) {  // whether the thread could do anything
  Thread& one = threads[number];
  if (one.done || (one.started && one.gate && *one.gate == one.seen)) return false;
  current = number;
  threadIdx.x = number;
  if (!_setjmp(scheduler)) {
    if (one.started) _longjmp(one.place, 1);
    one.started = true;
    setcontext(&one.start);
  }
  return true;
}

static bool run_block(bool backwards) {
  block = Gate();
  block.running = count;
  for (int warp = 0; warp * LANES < count; ++warp) {
    warps[warp] = Gate();
    warps[warp].running = count - warp * LANES < LANES ? count - warp * LANES : LANES;
  }
  for (int i = 0; i < count; ++i) {
    Thread& one = threads[i];
    one.started = one.done = false;
    one.gate = nullptr;
    one.shuffles = 0;
    getcontext(&one.start);
    one.start.uc_stack.ss_sp = stacks + (size_t)i * STACK;
    one.start.uc_stack.ss_size = STACK;
    one.start.uc_link = nullptr;
    makecontext(&one.start, run, 0);
  }
  // A warp goes as far as it can before the next one does anything.
  const int warps = (count + LANES - 1) / LANES;
  for (volatile bool moved = true; moved;) {
    moved = false;
    for (volatile int w = 0; w < warps; ++w) {
      const int first = (backwards ? warps - 1 - w : w) * LANES;
      for (volatile bool again = true; again;) {
        again = false;
        for (volatile int i = first; i < first + LANES && i < count; ++i)
          if (turn(i)) again = moved = true;
      }
    }
  }
  for (int i = 0; i < count; ++i)
    if (!threads[i].done) return false;
  return true;
}

}  // namespace emulated

// What the compiler's check of alignment calls.
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, void*) {
  emulated::misaligned = true;
  emulated::end();  // before it does what could stop the whole process
}

static inline void __syncthreads() { emulated::wait(emulated::block); }

template <class T> static inline T __shfl_xor_sync(unsigned, T value, int step) {
  using namespace emulated;
  const int warp = current / LANES, lane = current % LANES, side = threads[current].shuffles++ % 2;
  memcpy(&slots[warp][side][lane], &value, sizeof value);
  wait(warps[warp]);
  memcpy(&value, &slots[warp][side][lane ^ step], sizeof value);
  return value;
}

template <class To, class From> static inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To out;
  memcpy(&out, &x, sizeof out);
  return out;
}
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }

// Conversions that a GPU has instructions for.
static inline float __half_as_float(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x400u) return __uint_as_float(sign | ((rest << 13) + 0x38000000u));
  const float size = rest * 0x1p-24f;
  return sign ? -size : size;
}
static inline unsigned short __float_as_half(float x) {
  const unsigned sign = __float_as_uint(x) >> 16 & 0x8000u;
  const float size = fabsf(x);
  if (!(size == size)) return 0x7fff;
  if (size >= 65520.0f) return sign | 0x7c00u;
  if (size < 0x1p-14f) return sign | (unsigned)rintf(size * 0x1p24f);
  const unsigned bits = __float_as_uint(size);
  return sign | ((bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13);
}

extern "C" char __start_emulated_shared[] __attribute__((weak));
extern "C" char __stop_emulated_shared[] __attribute__((weak));

// Runs a kernel whose arguments have 8 bytes each; returns 0, or 1 if its threads got stuck, or 2 if
// an address was no multiple of what is there.
extern "C" int emulated_launch(void* kernel, int blocks, int threads, int backwards, int arguments,
                               const long long* a) {
  using namespace emulated;
  misaligned = false;
  static void* function;
  static long long given[16];
  function = kernel;
  memset(given, 0, sizeof given);
  memcpy(given, a, arguments * sizeof *a);
  body = [] {
    typedef long long L;
    const L* g = given;
    ((void (*)(L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L))function)(
        g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12], g[13],
        g[14], g[15]);
  };
  if (threads > MOST || arguments > 16) return 1;
  if (!stacks) stacks = (char*)malloc((size_t)MOST * STACK);
  count = threads;
  blockDim.x = threads;
  gridDim.x = blocks;
  for (int i = 0; i < blocks; ++i) {
    blockIdx.x = i;
    if (__start_emulated_shared)
      memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    if (!run_block(backwards)) return 1;
  }
  return misaligned ? 2 : 0;
}
