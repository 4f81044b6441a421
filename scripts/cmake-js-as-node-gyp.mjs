#!/usr/bin/env node
// prebuildify runs node-gyp and passes it node-gyp's arguments; this takes its place and runs cmake-js without them.
import { execFileSync } from 'node:child_process';

execFileSync('npx', ['cmake-js', 'rebuild', '--CDMOE_CUDA=OFF'], { stdio: 'inherit' });
