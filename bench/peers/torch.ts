// PyTorch, in a Python process where there is one that has it: `torch_layer.py` beside the source of this file.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { peerFile } from './packages.ts';
import type { Peer } from './peer.ts';

export const torch: Peer = {
  name: 'torch',
  dtypes: ['float32', 'bfloat16'],
  passes: ['forward', 'backward', 'both'],
  // Those that `torch_layer.py` knows.
  activations: ['swiglu', 'relu', 'gelu', 'gelu_tanh', 'silu', 'identity'],
  gpus: true,
  absent: async ({ python }) => {
    try {
      await promisify(execFile)(python, ['-c', 'import torch']);
      return undefined;
    } catch (error) {
      const { message, stderr } = error as Error & { stderr?: string };
      return stderr ? `${python}: ${stderr.trimEnd().split('\n').at(-1)}` : message;
    }
  },
  program: ({ python }) => ({ command: python, args: [peerFile('torch_layer.py')] }),
};
