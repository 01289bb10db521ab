import CFUSE
import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// Shows a read-only file system at a directory, through libfuse's low-level interface.
///
/// One thread of the pool takes requests from the kernel; each is answered by a task of its own, so that a slow read keeps
/// nobody waiting.
package struct FUSEMount: Sendable {
  package struct Options: Sendable {
    /// Other users may look as well; whether they may read a file is up to its mode.
    package var allowsOthers = false
    /// With `allowsOthers`: the kernel checks modes and owners.
    package var checksPermissions = true

    package init() {}
  }

  let fileSystem: any ReadOnlyFileSystem
  let options: Options
  let pool: BlockingPool

  package init(_ fileSystem: any ReadOnlyFileSystem, _ options: Options, pool: BlockingPool) {
    (self.fileSystem, self.options, self.pool) = (fileSystem, options, pool)
  }

  /// Serves until somebody unmounts the directory, or `stopped` ends: then it is unmounted, also if in use.
  ///
  /// - Parameter mounted: Called once it can be looked at.
  package func serve(
    at directory: String, until stopped: AsyncStream<Never>, mounted: @escaping @Sendable () async -> Void
  ) async throws {
    let (requests, sink) = AsyncStream.makeStream(of: Request.self)
    let (fileSystem, options, pool) = (fileSystem, options, pool)
    let session = try await pool.run { () throws(MountFailure) in
      try Session(directory, options) { sink.yield($0) }
    }
    await mounted()
    await withDiscardingTaskGroup { group in
      group.addTask {
        await pool.run { session.loop() }
        sink.finish()
      }
      group.addTask {
        for await _ in stopped {}
        session.stop()
      }
      for await request in requests { group.addTask { await request.answer(fileSystem) } }
      // The kernel waits for nothing any more.
      group.cancelAll()
    }
    await pool.run { session.close() }
  }
}

/// One mounted directory and its connection to the kernel. Every call but ``stop()`` blocks.
final class Session: @unchecked Sendable {
  // `raw` is libfuse's and may be answered to from any thread; the rest is not changed after `init`.
  private let raw: OpaquePointer
  /// A pipe: what is written into the one end ends the loop that waits at the other.
  private let wake: (read: Int32, write: Int32)
  private let take: Box

  /// What the callbacks of the C library find the session's sink by.
  final class Box: Sendable {
    let yield: @Sendable (Request) -> Void
    init(_ yield: @escaping @Sendable (Request) -> Void) { self.yield = yield }
  }

  init(
    _ directory: String, _ options: FUSEMount.Options, _ yield: @escaping @Sendable (Request) -> Void
  ) throws(MountFailure) {
    guard Files.isDirectory(directory) else { throw .notDirectory(directory) }
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw .refused(directory) }
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    wake = (ends[0], ends[1])
    var words = "ro,nosuid,nodev,fsname=salvor,subtype=salvor"
    if options.allowsOthers { words += ",allow_other" + (options.checksPermissions ? ",default_permissions" : "") }
    let strings: [UnsafeMutablePointer<CChar>?] = ["salvor", "-o", words].map { (word: String) in strdup(word) }
    defer { for string in strings { free(string) } }
    var pointers = strings + [nil]
    let box = Box(yield)
    let made = pointers.withUnsafeMutableBufferPointer { pointers -> OpaquePointer? in
      var arguments = fuse_args(argc: 3, argv: pointers.baseAddress, allocated: 0)
      var operations = Operations.table
      let made = fuse_session_new(
        &arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size, Unmanaged.passUnretained(box).toOpaque())
      fuse_opt_free_args(&arguments)
      return made
    }
    guard let made, fuse_session_mount(made, directory) == 0 else {
      if let made { fuse_session_destroy(made) }
      for end in ends { Glibc.close(end) }
      throw .refused(directory)
    }
    let descriptor = fuse_session_fd(made)
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    (raw, take) = (made, box)
  }

  /// Takes requests until the directory is unmounted or ``stop()`` is called.
  func loop() {
    var buffer = fuse_buf()
    defer { free(buffer.mem) }
    var waiting = [
      pollfd(fd: fuse_session_fd(raw), events: Int16(POLLIN), revents: 0),
      pollfd(fd: wake.read, events: Int16(POLLIN), revents: 0),
    ]
    while fuse_session_exited(raw) == 0 {
      if poll(&waiting, 2, -1) < 0 && errno != EINTR { break }
      if waiting[1].revents != 0 { break }
      let count = fuse_session_receive_buf(raw, &buffer)
      if count == -EINTR || count == -EAGAIN { continue }
      if count <= 0 { break }
      fuse_session_process_buf(raw, &buffer)
    }
  }

  func stop() {
    var one: UInt8 = 1
    _ = write(wake.write, &one, 1)
  }

  /// Unmounts, unless somebody has.
  func close() {
    fuse_session_unmount(raw)
    fuse_session_destroy(raw)
    Glibc.close(wake.read)
    Glibc.close(wake.write)
  }
}
