import CFUSE
import CWatchdog
import Core
import IO
import StateKit
import Synchronization
import TestSupport
import Testing
import WatchdogDevice

#if canImport(Glibc)
  import Glibc
#endif

/// What a watchdog's driver would see: a file whose open, writes, ioctls and close come from the kernel, as a device's do.
///
/// It is served through FUSE; there is no such device where tests run.
private final class WatchdogFile: @unchecked Sendable {
  enum Event: Equatable {
    case opened, wrote([UInt8]), asked, set(Int32), closed
  }

  struct State {
    var events: [Event] = []
    var options = salvor_watchdog_can_set_timeout | salvor_watchdog_has_magic_close
    /// What it makes of any time it is asked for; 0: what is asked.
    var taken: Int32 = 0
  }

  let state: Mutex<State>
  private let directory: TemporaryDirectory
  // libfuse's own; used by the loop's thread, and after that thread has ended.
  private var session: OpaquePointer?
  private let ended = LoopEnd()

  var path: String { directory.path + "/watchdog" }
  var events: [Event] { state.withLock { $0.events } }

  init(_ change: (inout State) -> Void = { _ in }) throws {
    var initial = State()
    change(&initial)
    state = Mutex(initial)
    directory = try TemporaryDirectory("watchdog")
    var operations = fuse_lowlevel_ops()
    operations.lookup = { request, _, name in
      guard let request, let name, String(cString: name) == "watchdog" else {
        fuse_reply_err(request, ENOENT)
        return
      }
      var entry = fuse_entry_param()
      entry.ino = 2
      entry.attr = WatchdogFile.attributes(2)
      fuse_reply_entry(request, &entry)
    }
    operations.getattr = { request, inode, _ in
      var found = WatchdogFile.attributes(inode)
      fuse_reply_attr(request, &found, 0)
    }
    operations.open = { request, _, info in
      WatchdogFile.of(request).add(.opened)
      info?.pointee.direct_io = 1
      fuse_reply_open(request, info)
    }
    operations.write = { request, _, bytes, count, _, _ in
      let written = UnsafeRawBufferPointer(start: bytes, count: count)
      WatchdogFile.of(request).add(.wrote(Array(written)))
      fuse_reply_write(request, count)
    }
    operations.release = { request, _, _ in
      WatchdogFile.of(request).add(.closed)
      fuse_reply_err(request, 0)
    }
    operations.ioctl = { request, _, command, _, _, _, input, inputCount, _ in
      WatchdogFile.of(request).control(request, UInt32(bitPattern: command), input, inputCount)
    }
    let strings: [UnsafeMutablePointer<CChar>?] = ["watchdog", "-o", "fsname=watchdog"].map { (word: String) in
      strdup(word)
    }
    defer { for string in strings { free(string) } }
    var pointers: [UnsafeMutablePointer<CChar>?] = strings + [nil]
    session = pointers.withUnsafeMutableBufferPointer { pointers in
      var arguments = fuse_args(argc: 3, argv: pointers.baseAddress, allocated: 0)
      defer { fuse_opt_free_args(&arguments) }
      return fuse_session_new(
        &arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size, Unmanaged.passUnretained(self).toOpaque())
    }
    guard let session, fuse_session_mount(session, directory.path) == 0 else { throw SystemFailure("mount") }
    let ended = ended
    nonisolated(unsafe) let served = session
    var thread = pthread_t()
    let box = Unmanaged.passRetained(Loop(served, ended))
    pthread_create(&thread, nil, { Unmanaged<Loop>.fromOpaque($0!).takeRetainedValue().run() }, box.toOpaque())
    pthread_detach(thread)
  }

  private final class Loop {
    let session: OpaquePointer
    let ended: LoopEnd
    init(_ session: OpaquePointer, _ ended: LoopEnd) { (self.session, self.ended) = (session, ended) }
    func run() -> UnsafeMutableRawPointer? {
      fuse_session_loop(session)
      ended.signal()
      return nil
    }
  }

  /// Unmounts, which ends the loop.
  func close() {
    guard let session else { return }
    fuse_session_unmount(session)
    ended.wait()
    fuse_session_destroy(session)
    self.session = nil
  }

  deinit { close() }

  private static func of(_ request: fuse_req_t?) -> WatchdogFile {
    Unmanaged<WatchdogFile>.fromOpaque(fuse_req_userdata(request)).takeUnretainedValue()
  }

  private static func attributes(_ inode: fuse_ino_t) -> stat {
    var found = stat()
    found.st_ino = ino_t(inode)
    found.st_mode = inode == 1 ? S_IFDIR | 0o755 : S_IFREG | 0o600
    found.st_nlink = 1
    return found
  }

  private func add(_ event: Event) { state.withLock { $0.events.append(event) } }

  private func control(_ request: fuse_req_t?, _ command: UInt32, _ input: UnsafeRawPointer?, _ count: Int) {
    if command == salvor_watchdog_get_support {
      add(.asked)
      // struct watchdog_info: options, firmware_version, identity[32].
      var answer = [UInt8](repeating: 0, count: 40)
      let options = state.withLock { $0.options }
      withUnsafeBytes(of: options) { answer.replaceSubrange(0..<4, with: $0) }
      fuse_reply_ioctl(request, 0, answer, answer.count)
    } else if command == salvor_watchdog_set_timeout_request, let input, count == 4 {
      let asked = input.loadUnaligned(as: Int32.self)
      add(.set(asked))
      var taken = state.withLock { $0.taken == 0 ? asked : $0.taken }
      fuse_reply_ioctl(request, 0, &taken, 4)
    } else {
      fuse_reply_err(request, ENOTTY)
    }
  }
}

/// Lets one thread wait for another's end.
private final class LoopEnd: @unchecked Sendable {
  private var semaphore = sem_t()
  init() { sem_init(&semaphore, 0, 0) }
  func signal() { sem_post(&semaphore) }
  func wait() { while sem_wait(&semaphore) != 0 {} }
}

@Suite("The watchdog's device", .serialized) struct WatchdogTests {
  private let goodbye = UInt8(ascii: "V")

  /// A close is told to the device after close(2) has returned.
  private func settled(_ file: WatchdogFile) -> [WatchdogFile.Event] {
    for _ in 0..<6000 where file.events.last != .closed { usleep(10_000) }
    return file.events
  }

  @Test(.timeLimit(.minutes(10)))
  func `it is armed with its time, fed, and let go with a goodbye`() async throws {
    try await BlockingPool.shared.run {
      let file = try WatchdogFile()
      let watchdog = DeviceWatchdog(file.path)
      #expect(throws: WatchdogError.self) { try watchdog.feed() }
      try watchdog.disarm()
      #expect(file.events.isEmpty)
      try watchdog.arm(.milliseconds(4900))
      #expect(file.events == [.opened, .asked, .set(4), .wrote([0])])
      try watchdog.arm(.seconds(4))
      try watchdog.feed()
      try watchdog.feed()
      #expect(file.events.count == 6)
      try watchdog.disarm()
      #expect(
        settled(file) == [.opened, .asked, .set(4), .wrote([0]), .wrote([0]), .wrote([0]), .wrote([goodbye]), .closed])
      try watchdog.arm(.seconds(4))
      #expect(file.events.suffix(4) == [.opened, .asked, .set(4), .wrote([0])])
      try watchdog.disarm()
      _ = settled(file)
      file.close()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `an agent that dies says no goodbye`() async throws {
    try await BlockingPool.shared.run {
      let file = try WatchdogFile()
      var watchdog: DeviceWatchdog? = DeviceWatchdog(file.path)
      try watchdog?.arm(.seconds(4))
      watchdog = nil
      #expect(!settled(file).contains(.wrote([goodbye])))
      file.close()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `one that can't be relied on is let go at once`() async throws {
    try await BlockingPool.shared.run {
      let changes: [(inout WatchdogFile.State) -> Void] = [
        { $0.options = salvor_watchdog_can_set_timeout }, { $0.options = salvor_watchdog_has_magic_close },
        { $0.taken = 60 }, { $0.taken = -1 },
      ]
      for change in changes {
        let file = try WatchdogFile(change)
        #expect(throws: WatchdogError.self) { try DeviceWatchdog(file.path).arm(.seconds(4)) }
        #expect(settled(file).suffix(2) == [.wrote([goodbye]), .closed])
        file.close()
      }
      let directory = try TemporaryDirectory("watchdog")
      try Files.replace(directory.file("plain"), with: [])
      for path in [directory.file("plain"), directory.file("none")] {
        #expect(throws: WatchdogError.self) { try DeviceWatchdog(path).arm(.seconds(4)) }
      }
      // A quarter of a bound of two seconds is less than a second.
      let quick = try WatchdogFile()
      #expect(throws: WatchdogError.self) { try DeviceWatchdog(quick.path).arm(.milliseconds(500)) }
      #expect(quick.events.isEmpty)
      quick.close()
    }
  }
}
