; What 64-bit ARM does its own way, for threads.ll: a pause of the CPU, and its floating-point modes.

declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define internal void @relax() {
  call void @llvm.aarch64.isb(i32 15)
  ret void
}

define internal i64 @modes() {
  %modes = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %modes
}

define internal void @adopt(i64 %modes) {
  call void @llvm.aarch64.set.fpcr(i64 %modes)
  ret void
}
