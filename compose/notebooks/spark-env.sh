# The limit of the kernel's own memory (lakehouse_notebooks/limits.py) is none for Spark's JVM, which has its heap's.
ulimit -S -d "$(ulimit -H -d)"
# Where the container's memory does not suffice nevertheless, Spark goes first: the kernel has the variables.
echo 500 >/proc/self/oom_score_adj
# A heap that was large once gives back what it does not need.
SPARK_SUBMIT_OPTS="$SPARK_SUBMIT_OPTS -XX:MinHeapFreeRatio=10 -XX:MaxHeapFreeRatio=30 -XX:-ShrinkHeapInSteps"
# What lies outside of the heap is little, and shared by all threads.
MALLOC_ARENA_MAX=2
