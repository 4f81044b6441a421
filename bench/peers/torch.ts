// PyTorch, in a Python process where there is one that has it: `torch_layer.py` beside this file.

import { spawnSync } from 'node:child_process';
import { peerFile } from './packages.ts';
import { PEER_PASSES, type Peer, unsupported } from './peer.ts';

/** Those that `torch_layer.py` knows. */
const ACTIVATIONS = ['swiglu', 'relu', 'gelu', 'gelu_tanh', 'silu', 'identity'];

export const torch: Peer = {
  name: 'torch',
  absent: ({ python }) => {
    const { status, stderr, error } = spawnSync(python, ['-c', 'import torch'], { encoding: 'utf8' });
    return status === 0 ? undefined : (error?.message ?? `${python}: ${stderr.trimEnd().split('\n').at(-1)}`);
  },
  can: task =>
    unsupported(task, { dtypes: ['float32', 'bfloat16'], passes: PEER_PASSES, activations: ACTIVATIONS }),
  program: ({ python }) => ({ command: python, args: [peerFile('torch_layer.py')] }),
};
