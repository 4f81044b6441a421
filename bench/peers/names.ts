// What can be measured beside this package.

export const PEER_NAMES = ['onnxruntime-node', 'loop', 'torch', 'tfjs-wasm', 'jax-js', 'ggml'] as const;
export type PeerName = (typeof PEER_NAMES)[number];
