// Runs the native side of the test suite under AddressSanitizer and UndefinedBehaviorSanitizer. Node itself is not
// instrumented, so the sanitizer's library is preloaded and leaks, which would be Node's, are not reported.
import { execFileSync, spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const library = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim();
const suites = [
  'test/conformance',
  'test/lifetime/dispose',
  'test/lifetime/queue-errors',
  'test/lifetime/zero-copy',
];
const { status } = spawnSync('npx', ['vitest', 'run', ...suites, ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: {
    ...process.env,
    LD_PRELOAD: library,
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
    // On the best instruction set alone, and without float16, which differs from bfloat16 in conversions: test/native runs
    // all kernels under the sanitizers.
    MOE_KERNELS_TEST_DEVICES: 'cpu',
    MOE_KERNELS_TEST_DTYPES: 'float32,bfloat16',
    MOE_KERNELS_BINARY: resolve('build/asan/RelWithDebInfo/moe_kernels.node'),
  },
});
process.exit(status ?? 1);
