// The linear layer and its gradients in f32: one product of two matrices of any strides, and the sums of columns.
// Products of this size are a few microseconds in a step of milliseconds.

#define TILE 16

struct linear_product_arguments {
    const float *a, *b;
    const float *bias; // of each column, or null
    float *y;          // y[row, column] = sum over k of a[row, k] b[column, k], plus bias[column]
    long long a_row, a_k, b_column, b_k; // strides
    int rows, columns, depth;
    int unused;
};

// A block for each tile of 16 by 16 results, a thread for each of them.
extern "C" __global__ void linear_product(linear_product_arguments p) {
    __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
    int x = (int)threadIdx.x % TILE, y = (int)threadIdx.x / TILE;
    int row = (int)blockIdx.y * TILE + y, column = (int)blockIdx.x * TILE + x;
    float sum = 0.0f;
    for (int k = 0; k < p.depth; k += TILE) {
        // Each operand is read along the dimension in which it is contiguous.
        int across = p.a_k == 1 ? y : x, along = p.a_k == 1 ? x : y;
        int from = (int)blockIdx.y * TILE + across;
        a[across][along] = from < p.rows && k + along < p.depth ? p.a[from * p.a_row + (k + along) * p.a_k] : 0.0f;
        across = p.b_k == 1 ? y : x, along = p.b_k == 1 ? x : y;
        from = (int)blockIdx.x * TILE + across;
        b[across][along] = from < p.columns && k + along < p.depth ? p.b[from * p.b_column + (k + along) * p.b_k] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; ++i) sum = fmaf(a[y][i], b[x][i], sum);
        __syncthreads();
    }
    if (row < p.rows && column < p.columns) {
        if (p.bias) sum += p.bias[column];
        p.y[(long long)row * p.columns + column] = sum;
    }
}

struct linear_sums_arguments {
    const float *x; // [rows, columns]
    float *sums;    // [columns]
    int rows, columns;
};

// A thread for each column.
extern "C" __global__ void linear_sums(linear_sums_arguments p) {
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= p.columns) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int row = 0; row < p.rows; ++row) sum += p.x[(long long)row * p.columns + column];
    p.sums[column] = sum;
}
