// What candle opens or names, but nothing here uses: opened without effect, and failing when it is called.
#include <cstdio>

extern "C" {

#define OPENED(name) \
    int name(void) { return 0; }
OPENED(cublasCreate_v2)
OPENED(cublasDestroy_v2)
OPENED(cublasSetStream_v2)
OPENED(cublasSetWorkspace_v2)

#define ABSENT(name)                                                       \
    int name(void) {                                                       \
        std::fprintf(stderr, "emulated GPU: " #name " is not emulated\n"); \
        return 801;                                                        \
    }
ABSENT(cuMemcpyPeerAsync)
ABSENT(cuModuleLoad)
ABSENT(cublasDgemmStridedBatched)
ABSENT(cublasGemmStridedBatchedEx)
ABSENT(cublasGemmStridedBatchedEx_64)
ABSENT(cudnnConvolutionForward)
ABSENT(cudnnCreateConvolutionDescriptor)
ABSENT(cudnnCreateFilterDescriptor)
ABSENT(cudnnCreateTensorDescriptor)
ABSENT(cudnnDestroyConvolutionDescriptor)
ABSENT(cudnnDestroyFilterDescriptor)
ABSENT(cudnnDestroyTensorDescriptor)
ABSENT(cudnnGetConvolutionForwardAlgorithm_v7)
ABSENT(cudnnGetConvolutionForwardWorkspaceSize)
ABSENT(cudnnSetConvolution2dDescriptor)
ABSENT(cudnnSetFilter4dDescriptor)
ABSENT(cudnnSetTensor4dDescriptor)
ABSENT(cudnnSetTensor4dDescriptorEx)
}
