// RMSNorm then modulate: y = x / sqrt(mean(x^2) + eps) * weight * (1 + scale) + shift, in one read and one write.
//
// One thread block per row. x, y: (rows, width), contiguous. weight: (width).
// shift, scale: one row per `rows_per_group` rows of x, `modulation_stride` elements apart (they are slices of one
// projection). Sums and products are f32; bf16 is unpacked and rounded here, so no CUDA header is needed to compile.

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float load(float value) { return value; }

__device__ __forceinline__ float load(bf16 value) { return __uint_as_float((unsigned int)value.bits << 16); }

__device__ __forceinline__ void store(float *to, float value) { *to = value; }

// Rounds to nearest, ties to even, as PyTorch does; a NaN stays one.
__device__ __forceinline__ void store(bf16 *to, float value) {
    unsigned int bits = __float_as_uint(value);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to->bits = nan ? 0x7fc0u : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <typename T>
__device__ __forceinline__ void norm_modulate(
    const T *x, const T *weight, const T *shift, const T *scale, T *y,
    int width, long long rows_per_group, long long modulation_stride, float eps) {
    long long row = blockIdx.x;
    long long group = row / rows_per_group;
    x += row * width;
    y += row * width;
    shift += group * modulation_stride;
    scale += group * modulation_stride;

    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float value = load(x[i]);
        sum += value * value;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    __shared__ float of_warp[32];
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    sum = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; ++warp) {
        sum += of_warp[warp];
    }

    float inverse = rsqrtf(sum / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float normed = load(x[i]) * inverse * load(weight[i]);
        store(&y[i], normed * (1.0f + load(scale[i])) + load(shift[i]));
    }
}

#define INSTANCE(NAME, T)                                                                            \
    extern "C" __global__ void NAME(                                                                 \
        const T *x, const T *weight, const T *shift, const T *scale, T *y,                           \
        int width, long long rows_per_group, long long modulation_stride, float eps) {               \
        norm_modulate(x, weight, shift, scale, y, width, rows_per_group, modulation_stride, eps);    \
    }

INSTANCE(norm_modulate_f32, float)
INSTANCE(norm_modulate_bf16, bf16)
