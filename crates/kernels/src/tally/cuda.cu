// Counts of a batch added to a tally: one block, one warp a row at a time.
#include "cuda/reduce.cuh"

struct Tally {
    const float* logits;     // [N, K]
    const unsigned* labels;  // [N]
    const float* losses;     // [N]
    double* tally;           // images, sum of losses, right, among the first five; counts are exact below 2^53
    unsigned long long rows;
    unsigned classes;
};

extern "C" __global__ void __launch_bounds__(1024) tally(const __grid_constant__ Tally a) {
    __shared__ double scratch[3][32];
    unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
    double loss = 0.0, top1 = 0.0, top5 = 0.0;  // of a warp's rows, in its first lane
    for (unsigned long long row = threadIdx.x / 32; row < a.rows; row += warps) {
        const float* logits = a.logits + row * a.classes;
        unsigned label = a.labels[row];
        bool valid = label < a.classes;
        float own = valid ? logits[label] : NAN;
        // Of equal logits the lower class is the likelier one; NaN is likelier than the label.
        int rank = 0;
        for (unsigned k = lane; k < a.classes; k += 32) {
            bool behind = logits[k] < own || (logits[k] == own && k > label);
            rank += k != label && !behind;
        }
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) rank += __shfl_xor_sync(0xffffffffu, rank, lanes);
        if (lane == 0) {
            loss += (double)a.losses[row];
            top1 += valid && rank < 1;
            top5 += valid && rank < 5;
        }
    }
    loss = block_sum(loss, scratch[0]);
    top1 = block_sum(top1, scratch[1]);
    top5 = block_sum(top5, scratch[2]);
    if (threadIdx.x == 0) {
        a.tally[0] += (double)a.rows;
        a.tally[1] += loss;
        a.tally[2] += top1;
        a.tally[3] += top5;
    }
}
