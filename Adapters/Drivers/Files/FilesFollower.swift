import Core
import DriverKit
import Glibc
import IO

extension FilesDriver {
  func follower() -> (any LogFollower)? {
    guard let log else { return nil }
    return FilesFollower(driver: self, directory: log)
  }
}

/// Writes down what changes in a tree, as it changes.
///
/// `docs/decisions/0026-a-log-of-files.md` says how and why.
struct FilesFollower: LogFollower {
  let driver: FilesDriver
  /// Where notes are kept, and where sessions ask for a mark.
  let directory: String
  /// How long notes may become, in lines beyond what the tree needs.
  var longNotes = 100_000

  /// How long changes may gather, at most; the resolution of times, and a mark has to wait until they are read.
  static let longestGathering: Duration = .milliseconds(20)
  /// How long a cancellation may wait.
  private static let turn: Duration = .milliseconds(500)
  /// How often notes are made to last, and it is looked whether the tree is the one that was there.
  var sign: Duration = .seconds(1)

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let (driver, directory) = (driver, directory)
    let (time, pool) = (driver.environment.time, driver.pool)
    let tree = Tree(driver.path, excludes: driver.excludes)
    let name = Hex.encode(driver.environment.randomness.bytes(8))
    let tail = try await pool.run { () throws(DriverError) -> TreeTail in
      let tail = try TreeTail(tree, notes: directory, time)
      do throws(DriverError) { try tail.begin(from: end, named: name, into: sink) } catch {
        tail.close()
        throw error
      }
      return tail
    }
    let failure: DriverError
    do throws(DriverError) {
      let asked = try await pool.run { () throws(DriverError) -> MarkListener in try MarkListener(in: directory) }
      do throws(DriverError) {
        try await ship(tail, asked, into: sink)
        return
      } catch { failure = error }
      await pool.run { asked.close() }
    } catch {
      await pool.run { tail.close() }
      throw error
    }
    await pool.run { tail.close() }
    throw failure
  }

  private func ship(_ tail: TreeTail, _ asked: MarkListener, into sink: any LogSink) async throws(DriverError) {
    let (time, pool, longNotes, sign) = (driver.environment.time, driver.pool, longNotes, sign)
    var signed = time.monotonicNanoseconds()
    while true {
      if Task.isCancelled { throw .cancelled }
      let isDue = Duration.nanoseconds(time.monotonicNanoseconds() - signed) >= sign
      if isDue { signed = time.monotonicNanoseconds() }
      let isFull = try await pool.run { () throws(DriverError) -> Bool in
        if isDue {
          try tail.requireTree()
          try tail.synchronize(durable: sink.durable, long: longNotes)
        }
        return try Self.ship(tail, asked, into: sink, time, for: min(sign, Self.turn))
      }
      if isFull { do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled } }
    }
  }

  /// Stays on its thread: many small changes would else be as many changes of threads. Blocks.
  ///
  /// - Returns: Whether the sink has no room.
  private static func ship(
    _ tail: TreeTail, _ asked: MarkListener, into sink: any LogSink, _ time: any Timekeeper, for turn: Duration
  ) throws(DriverError) -> Bool {
    let gathering = min(sink.gathering, longestGathering)
    let begun = time.monotonicNanoseconds()
    while Duration.nanoseconds(time.monotonicNanoseconds() - begun) < turn {
      // Who asks before the tree is looked at has all that was done before.
      asked.listen()
      guard try tail.ship(into: sink) else {
        if sink.hasRoom { continue }
        return true
      }
      asked.answer(tail.position)
      // Whoever asks for a mark is answered at once.
      if !asked.wait(orFor: tail.newsDescriptor, atMost: turn / 4) { asked.wait(atMost: gathering) }
    }
    return false
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard let place = ChangePlace(position) else { return nil }
    return place.cursor
  }
}

/// Tells sessions of other processes where the log stands, over a socket in the follower's directory.
///
/// A session sends a byte and gets one line, as soon as all that was done before it asked is in the log.
final class MarkListener: @unchecked Sendable {
  // Used by one task at a time, on the blocking pool.
  private let place: File
  private let listening: File
  private var callers: [File] = []
  private var waiting: [File] = []

  static let name = "socket"
  /// More than that ask for something else.
  static let limit = 64

  /// A directory may lie deeper than a socket's address can say; its descriptor is short.
  static func address(in directory: File) -> String { "/proc/self/fd/\(directory.descriptor)/\(name)" }

  init(in directory: String) throws(DriverError) {
    do throws(SystemFailure) {
      place = try File(directory, O_RDONLY | O_DIRECTORY)
      let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
      guard descriptor >= 0 else { throw SystemFailure("socket", path: directory) }
      listening = File(adopting: descriptor, path: directory + "/" + Self.name)
      // Whoever made it before is gone: the lock beside it is ours.
      unlink(listening.path)
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(Self.address(in: place).utf8)) }
      let bound = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
      guard bound == 0, Glibc.listen(descriptor, 16) == 0 else { throw SystemFailure("listen", path: listening.path) }
    } catch { throw DriverError(error) }
  }

  /// Whoever follows next makes its own, so this is not left to whenever the last reference goes.
  func close() {
    unlink(listening.path)
    (callers, waiting) = ([], [])
    shutdown(listening.descriptor, Int32(SHUT_RDWR))
  }

  /// Takes whoever has come and hears who asks; never waits.
  func listen() {
    while callers.count < Self.limit {
      let descriptor = accept(listening.descriptor, nil, nil)
      if descriptor < 0 { break }
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      callers.append(File(adopting: descriptor, path: listening.path))
    }
    callers.removeAll { caller in
      var byte: UInt8 = 0
      let count = retryingInterrupts { recv(caller.descriptor, &byte, 1, Int32(MSG_DONTWAIT)) }
      if count == 1 { waiting.append(caller) }
      return count == 0 || count < 0 && errno != EAGAIN
    }
  }

  /// Waits until somebody asks.
  ///
  /// - Parameter other: What may end the waiting too, by something to read.
  /// - Returns: Whether somebody asks.
  @discardableResult func wait(orFor other: Int32? = nil, atMost limit: Duration) -> Bool {
    // Whoever can't be taken doesn't end the waiting.
    let taking = callers.count < Self.limit ? listening.descriptor : -1
    var entries = ([taking] + callers.map(\.descriptor) + [other].compactMap(\.self)).map {
      pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
    }
    guard poll(&entries, nfds_t(entries.count), Int32(clamping: limit.wholeNanoseconds / 1_000_000)) > 0 else {
      return false
    }
    return entries.prefix(1 + callers.count).contains { $0.revents != 0 }
  }

  func answer(_ position: LogPosition) {
    let line = Array("\(position.value)\n".utf8)
    for caller in waiting {
      _ = line.withUnsafeBytes { send(caller.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT)) }
    }
    waiting = []
  }
}
