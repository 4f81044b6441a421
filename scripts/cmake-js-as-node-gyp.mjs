#!/usr/bin/env node
// prebuildify runs node-gyp and passes it node-gyp's arguments; this takes its place and runs cmake-js without them. With
// CUDA's kernels where nvcc is found.
import { execFileSync, spawnSync } from 'node:child_process';

const nvcc = spawnSync('nvcc', ['--version']).status === 0;
if (!nvcc) console.warn('No nvcc here: the prebuilt binary will have no CUDA backend.');
const cuda = nvcc ? ['--CDMOE_CUDA=ON', '--CDMOE_STRICT=ON'] : ['--CDMOE_CUDA=OFF'];
execFileSync('npx', ['cmake-js', 'rebuild', ...cuda], { stdio: 'inherit' });
