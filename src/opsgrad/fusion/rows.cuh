// What generated kernels are made of. Above it each one defines
//   real                      the data type that it computes in
//   THREADS                   the threads of a block
//   GROUP                     how many of them share a row: 1 to 32, or all
//   CLUSTER                   how many blocks share a row
//   WIDE                      how many rows a block has side by side, if the axis is not the last
//   REDUCTIONS                the most reductions of a phase
// Nothing is included, for that would take longer to compile than the kernel itself.

#define METHOD __device__ __forceinline__
#define DEVICE static METHOD
#define UNROLLED _Pragma("unroll")
#define PRAGMA(text) _Pragma(#text)
#define UNROLLED_BY(n) PRAGMA(unroll n)

typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;

// -- numbers in memory ----------------------------------------------------------------------------

struct float16 {
  u16 bits;
};
struct bfloat16 {
  u16 bits;
};

DEVICE float wide(float x) { return x; }
DEVICE double wide(double x) { return x; }
DEVICE float wide(bfloat16 x) { return __uint_as_float((u32)x.bits << 16); }

#ifdef __CUDA_ARCH__
DEVICE float wide(float16 x) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
}
DEVICE float16 half_of(float x) {
  float16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
}
#else  // on a host, which stands in for a device
DEVICE float wide(float16 x) { return __half_as_float(x.bits); }
DEVICE float16 half_of(float x) { return {__float_as_half(x)}; }
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
DEVICE bfloat16 bfloat_of(float x) {
  bfloat16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
}
#else
DEVICE bfloat16 bfloat_of(float x) {  // to nearest, ties to even
  const u32 bits = __float_as_uint(x);
  const u32 rounded = x != x ? 0x7fffffffu : bits + 0x7fffu + ((bits >> 16) & 1u);
  return {(u16)(rounded >> 16)};
}
#endif

DEVICE void narrow(float& to, real x) { to = (float)x; }
DEVICE void narrow(double& to, real x) { to = (double)x; }
DEVICE void narrow(float16& to, real x) { to = half_of((float)x); }
DEVICE void narrow(bfloat16& to, real x) { to = bfloat_of((float)x); }

// Entries that are loaded and stored at once, 16 bytes at a time.
template <class S, int N> struct __align__(sizeof(S) * N < 16 ? sizeof(S) * N : 16) Chunk {
  S at[N];
};

template <int N, class S> DEVICE Chunk<S, N> load(const S* from) {
  return *reinterpret_cast<const Chunk<S, N>*>(from);
}
template <int N, class S> DEVICE void store(S* to, const Chunk<S, N>& chunk) {
  *reinterpret_cast<Chunk<S, N>*>(to) = chunk;
}
// Says that registers may have changed, though they have not. Otherwise the compiler, which sees that
// two passes compute the same of them, keeps the results of the first, for which there is no room.
template <bool WHOLE> struct Word {
  typedef u32 type;
};
template <> struct Word<false> {
  typedef u16 type;
};
DEVICE void forget(u32& x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
}
DEVICE void forget(int& x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
}
DEVICE void forget(i64& x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+l"(x));
#endif
}
DEVICE void forget(u16& x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+h"(x));
#endif
}
template <class T, int N> DEVICE void forget(T (&x)[N]) {
  typedef typename Word<sizeof(T) % 4 == 0>::type W;
  W* words = reinterpret_cast<W*>(&x);
  UNROLLED for (int w = 0; w < (int)(sizeof x / sizeof(W)); ++w) forget(words[w]);
}

// The first `count` of them, where the array ends within a chunk.
template <int N, class S> DEVICE Chunk<S, N> load(const S* from, i64 count) {
  if (count >= N) return load<N>(from);
  Chunk<S, N> chunk;
  UNROLLED for (int v = 0; v < N; ++v) chunk.at[v] = from[v < count ? v : 0];
  return chunk;
}
template <int N, class S> DEVICE void store(S* to, const Chunk<S, N>& chunk, i64 count) {
  if (count >= N) {
    store<N>(to, chunk);
  } else {
    UNROLLED for (int v = 0; v < N; ++v) if (v < count) to[v] = chunk.at[v];
  }
}

// Those that lie within a row of so many entries, where a row begins or ends within the chunk.
DEVICE bool inside(int column, int length) { return (u32)column < (u32)length; }
DEVICE bool inside(i64 column, int length) { return 0 <= column && column < length; }
template <int N, class S, class I> DEVICE Chunk<S, N> load(const S* from, I column, int length) {
  if (column >= 0 && column + N <= length) return load<N>(from);
  Chunk<S, N> chunk;
  UNROLLED for (int v = 0; v < N; ++v)
    chunk.at[v] = inside(column + v, length) ? from[v] : S();
  return chunk;
}
template <int N, class S, class I>
DEVICE void store(S* to, const Chunk<S, N>& chunk, I column, int length) {
  if (column >= 0 && column + N <= length) {
    store<N>(to, chunk);
  } else {
    UNROLLED for (int v = 0; v < N; ++v) if (inside(column + v, length)) to[v] = chunk.at[v];
  }
}

// A label as it is compared with places along the row, which are from 0 to 2^31 - 2.
DEVICE int saturated(i64 x) {
  return x < -1 ? -1 : x > 0x7fffffff ? 0x7fffffff : (int)x;
}

// -- functions ------------------------------------------------------------------------------------

#if DOUBLE
#define LIBRARY(name) name
#else
#define LIBRARY(name) name##f
#endif

DEVICE real infinity() { return (real)__int_as_float(0x7f800000); }
DEVICE real not_a_number() { return (real)__int_as_float(0x7fc00000); }
DEVICE float fused(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double fused(double x, double y, double z) { return fma(x, y, z); }

DEVICE real fn_abs(real x) { return LIBRARY(fabs)(x); }
DEVICE real fn_ceil(real x) { return LIBRARY(ceil)(x); }
DEVICE real fn_floor(real x) { return LIBRARY(floor)(x); }
DEVICE real fn_trunc(real x) { return LIBRARY(trunc)(x); }
DEVICE real fn_sqrt(real x) { return LIBRARY(sqrt)(x); }
DEVICE real fn_exp(real x) { return LIBRARY(exp)(x); }
DEVICE real fn_expm1(real x) { return LIBRARY(expm1)(x); }
DEVICE real fn_log(real x) { return LIBRARY(log)(x); }
DEVICE real fn_log1p(real x) { return LIBRARY(log1p)(x); }
DEVICE real fn_log2(real x) { return LIBRARY(log2)(x); }
DEVICE real fn_tanh(real x) { return LIBRARY(tanh)(x); }
DEVICE bool fn_isnan(real x) { return x != x; }
DEVICE bool fn_isinf(real x) { return fn_abs(x) == infinity(); }
DEVICE bool fn_isfinite(real x) { return fn_abs(x) < infinity(); }

// The library's may be off by 2 units; a power of two is exact.
DEVICE real fn_exp2(real x) {
  return x == fn_floor(x) && fn_abs(x) < (real)2048 ? LIBRARY(ldexp)((real)1, (int)x)
                                                    : LIBRARY(exp2)(x);
}

// NaN wins.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !DOUBLE
DEVICE real fn_maximum(real x, real y) {
  real out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(y));
  return out;
}
DEVICE real fn_minimum(real x, real y) {
  real out;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(y));
  return out;
}
#else
DEVICE real fn_maximum(real x, real y) {
  return x != x || y != y ? x + y : LIBRARY(fmax)(x, y);
}
DEVICE real fn_minimum(real x, real y) {
  return x != x || y != y ? x + y : LIBRARY(fmin)(x, y);
}
#endif

// x / y for one y and many x: the quotient by the inverse, put right by what it leaves over. Both are
// scaled by a power of two, so that the inverse is a normal number; what that takes out of the range
// has a quotient out of the range. Where the rest could be too small to hold, it is left alone.
#if DOUBLE
#define LARGE 0x1p+800
#define SMALL 0x1p-800
#define LIFT 0x1p+512
#define DROP 0x1p-512
#else
#define LARGE 0x1p+100f
#define SMALL 0x1p-100f
#define LIFT 0x1p+64f
#define DROP 0x1p-64f
#endif
struct Divisor {
  real scale, value, inverse;
  METHOD explicit Divisor(real y) {
    scale = fn_abs(y) > LARGE ? DROP : fn_abs(y) < SMALL ? LIFT : (real)1;
    value = y * scale;
    inverse = (real)1 / value;
  }
};
DEVICE real fn_divide(real x, const Divisor& y) {
  x *= y.scale;
  const real quotient = x * y.inverse;
  const real rest = fused(-quotient, y.value, x);
  const bool useful = fn_abs(x) >= SMALL && fn_abs(rest) < infinity();
  return useful ? fused(rest, y.inverse, quotient) : quotient;
}

#if DOUBLE
DEVICE real fn_pow(real x, real y) { return pow(x, y); }
#else
// log x for a positive, normal number, wrong by 2^-37 of itself: 2^k·(1 + f), f from -0.303 to 0.394.
DEVICE double log_in_double(double x) {
  const i64 middle = 0x3fe64dd2f1a9fbe7;  // 0.697
  const i64 bits = __double_as_longlong(x) + ((i64)1023 << 52) - middle;
  const double k = (double)((int)(bits >> 52) - 1023);
  const double f = __longlong_as_double((bits & 0xfffffffffffff) + middle) - 1.0;
  const double below = f + 2.0;
  const double inverse = (double)(1.0f / (float)below);
  double s = f * inverse;
  s = fma(fma(-s, below, f), inverse, s);
  const double z = s * s, square = f * f;
  double series = fma(z, 2.0 * 0.2370020725644393, 2.0 * 0.28531220764666737);
  series = fma(series, z, 2.0 * 0.4000042805803573);
  series = fma(series, z, 2.0 * 0.6666666525364594);
  const double tail = fma(s, fma(z, series, square), -square);
  return fma(k, 0.6931471805599453, fma(tail, 0.5, f));
}
// e^x for what float32 can hold of it.
DEVICE double exp_in_double(double x) {
  x = x < -104.0 ? -104.0 : x > 89.0 ? 89.0 : x;
  const double shifted = fma(x, 1.4426950408889634, 6755399441055744.0 + 1023.0);
  const double count = shifted - (6755399441055744.0 + 1023.0);
  const double r = fma(count, -0.6931471805599453, x);
  double value = 0.0001979030643272293;
  value = fma(value, r, 0.0013944688265202414);
  value = fma(value, r, 0.008333497252390415);
  value = fma(value, r, 0.0416662945662776);
  value = fma(value, r, 0.16666665867728925);
  value = fma(value, r, 0.5000000067786248);
  value = fma(value, r, 1.0);
  value = fma(value, r, 1.0);
  return value * __longlong_as_double(__double_as_longlong(shifted) << 52);
}
// The library's powf is off by up to 4 units. The same as on the CPU: e^(y·log x) in float64.
DEVICE real fn_pow(real x, real y) {
  const float size = fabsf(x);
  double power = (double)y * log_in_double((double)size);
  if (size == 0.0f) power = y > 0.0f ? -infinity() : y < 0.0f ? infinity() : y;
  if (!(size < infinity())) power = (double)(y * size);
  float value = (float)exp_in_double(power);
  if (power != power) value = not_a_number();
  const bool whole = floorf(y) == y, odd = whole && floorf(0.5f * y) != 0.5f * y;
  if (odd) value = copysignf(value, x);
  if (x < 0.0f && !whole && size < infinity()) value = not_a_number();
  const bool endless = size == 1.0f && fabsf(y) == infinity();
  return x == 1.0f || y == 0.0f || endless ? 1.0f : value;
}
#endif

// -- reductions -----------------------------------------------------------------------------------

struct Sum {
  real total = 0;
  METHOD void add(real x) { total += x; }
};
struct Maximum {
  real total = -infinity();
  METHOD void add(real x) { total = fn_maximum(total, x); }
};
struct Minimum {
  real total = infinity();
  METHOD void add(real x) { total = fn_minimum(total, x); }
};

// e^(x - top), without the rounding error of the difference.
DEVICE real term(real x, real top) {
  const real shift = x - top, minus = shift - x;
  const real error = (x - (shift - minus)) - (top + minus);
  return fn_exp(shift) * ((real)1 + (fn_isfinite(error) ? error : (real)0));
}
// A thread's part of a sum of terms, while the maximum of the row is not known.
struct Part {
  real below = 0, block = 0;        // of entries below the highest so far, against the base
  real at_top = 0, once_below = 0;  // of that one: what counts now, and what will, once it is below
  METHOD void put_aside() {
    below += block;
    block = 0;
  }
};
// The highest entry that a thread has seen. The base that terms are taken against rises more rarely,
// and then so far that what was added up is lost beside what comes: so errors of scaling never pile
// up.
struct Peak {
  real top = -infinity(), base = -infinity();
  template <class... P> METHOD void rise(real to, P&... parts) {
    const real weight = term(top, base);  // NaN if nothing has been seen but -inf, which weighs 0
    ((parts.below += weight > (real)0 ? parts.once_below * weight : (real)0), ...);
    ((parts.at_top = parts.once_below = 0), ...);
    top = fn_maximum(top, to);
    if (top - base <= (real)32) return;
    const real scale = term(base, top);
    ((parts.below *= scale, parts.block *= scale), ...);
    base = top;
  }
  // A thread's part of a sum against the maximum of the whole row.
  METHOD real settled(const Part& part, real whole) const {
    const real scale = term(base, whole);
    if (!(top < whole)) return part.at_top + part.below * scale;
    return top > -infinity() ? (part.below + part.once_below * term(top, base)) * scale : (real)0;
  }
};

template <int LANES, class R> DEVICE void across_lanes(R& r) {
  UNROLLED for (int step = LANES / 2; step > 0; step /= 2)
    r.add(__shfl_xor_sync(0xffffffffu, r.total, step));
}

#if WIDE > 1
// Threads side by side have neighbouring rows; those on top of each other share one.
template <class R> DEVICE void across_block(real* room, R& r) {
  const int high = THREADS / WIDE;
  room[threadIdx.x] = r.total;
  for (int step = high / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step * WIDE) {
      r.add(room[threadIdx.x + step * WIDE]);
      room[threadIdx.x] = r.total;
    }
  }
  __syncthreads();
  r.total = room[threadIdx.x % WIDE];
  __syncthreads();
}
template <class... R> DEVICE void reduce(real* room, int, R&... r) { (across_block(room, r), ...); }
#define ROOM THREADS
#elif GROUP > 32
#define WARPS (THREADS / 32)
static_assert((WARPS & (WARPS - 1)) == 0, "the last step of a reduction halves the warps");
#define ROOM (2 * REDUCTIONS * (WARPS + CLUSTER))

#if CLUSTER > 1
// Every block writes its part to all the others' shared memory, and reads what they have written.
DEVICE u32 block_in_cluster() {
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
DEVICE void all_blocks() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
DEVICE void to_all_blocks(real* room, real value) {
  if (threadIdx.x < CLUSTER) {
    const u32 here = (u32)__cvta_generic_to_shared(room + block_in_cluster());
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(threadIdx.x));
#if DOUBLE
    asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(there), "d"(value) : "memory");
#else
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
#endif
  }
  __syncwarp();  // the barrier of the cluster is one that whole warps come to together
}
template <class R> DEVICE void of_all_blocks(const real* room, R& r) {
  r.total = room[0];
  UNROLLED for (int block = 1; block < CLUSTER; ++block) r.add(room[block]);
}
#endif

// Reductions take the two halves of the room in turns, so that one barrier is enough: who writes to
// a half has passed the barrier of the other, and all have read this one before they came to that.
template <class... R> DEVICE void reduce(real* room, int turn, R&... r) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  room += turn % 2 * REDUCTIONS * (WARPS + CLUSTER);
  (across_lanes<32>(r), ...);
  int place = 0;
  if (lane == 0) ((room[WARPS * place++ + warp] = r.total), ...);
  __syncthreads();
  place = 0;
  ((r.total = room[WARPS * place++ + lane % WARPS]), ...);
  (across_lanes<WARPS>(r), ...);
#if CLUSTER > 1
  room += REDUCTIONS * WARPS;
  place = 0;
  (to_all_blocks(room + CLUSTER * place++, r.total), ...);
  all_blocks();
  place = 0;
  (of_all_blocks(room + CLUSTER * place++, r), ...);
#endif
}
#else
template <class... R> DEVICE void reduce(real*, int, R&... r) { (across_lanes<GROUP>(r), ...); }
#define ROOM 1
#endif
