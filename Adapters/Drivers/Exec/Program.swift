import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// One conversation with a driver's program: a process that reads requests and writes replies, a line each.
///
/// It has the only other end of the program's standard input, so that this closes when our process ends, however it
/// does. Used by one caller at a time.
final class Program: Sendable {
  private struct State: ~Copyable {
    var input: Int32
    var output: Int32
    var errors: Int32
    var buffer: [UInt8] = []
    var lastID: Int64 = 0
    var ending: String?
  }

  /// What is said on standard error may be so long; who says more is ended.
  private static let errorsLimit: Int64 = 64 << 20
  private static let patience = Duration.seconds(10)

  let name: String
  private let pid: pid_t
  private let state: Mutex<State>
  private let mustEnd = Mutex(false)
  private let pool: BlockingPool
  private let time: any Timekeeper

  private init(name: String, pid: pid_t, state: consuming State, pool: BlockingPool, time: any Timekeeper) {
    (self.name, self.pid, self.pool, self.time) = (name, pid, pool, time)
    self.state = Mutex(state)
  }

  deinit {
    state.withLock { state in
      if state.ending == nil {
        kill(-pid, SIGKILL)
        var status: Int32 = 0
        _ = retryingInterrupts { waitpid(pid, &status, 0) }
      }
      for descriptor in [state.input, state.output, state.errors] where descriptor >= 0 { Glibc.close(descriptor) }
    }
  }

  // MARK: Beginning and end

  static func start(_ words: [String], pool: BlockingPool, time: any Timekeeper) async throws(DriverError) -> Program {
    try await pool.run { () throws(DriverError) -> Program in
      do throws(SystemFailure) { return try spawn(words, pool: pool, time: time) } catch {
        throw .engineFailed("\(words.first ?? "the program") can't be started", log: error.message)
      }
    }
  }

  private static func spawn(
    _ words: [String], pool: BlockingPool, time: any Timekeeper
  ) throws(SystemFailure) -> Program {
    guard let path = words.first else { throw SystemFailure("spawn", number: ENOENT) }
    var ends: [Int32] = [0, 0]
    // Pairs of sockets: closed in every other child from their first moment on, and writing to one whose reader is
    // gone raises no signal.
    let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw SystemFailure("socketpair") }
    let (input, theirInput) = (ends[0], ends[1])
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
      let failure = SystemFailure("socketpair")
      for descriptor in [input, theirInput] { Glibc.close(descriptor) }
      throw failure
    }
    let (output, theirOutput) = (ends[0], ends[1])
    defer {
      Glibc.close(theirInput)
      Glibc.close(theirOutput)
    }
    var template = Array("/tmp/salvor-errors-XXXXXX".utf8CString)
    let errors = mkstemp(&template)
    guard errors >= 0 else {
      let failure = SystemFailure("mkstemp", path: "/tmp")
      for descriptor in [input, output] { Glibc.close(descriptor) }
      throw failure
    }
    _ = fcntl(errors, F_SETFD, FD_CLOEXEC)
    unlink(template)
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, theirInput, 0)
    posix_spawn_file_actions_adddup2(&actions, theirOutput, 1)
    posix_spawn_file_actions_adddup2(&actions, errors, 2)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    // 0x80 is POSIX_SPAWN_SETSID: a session of its own, so that it can be ended with what it started.
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) | 0x80)
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] =
      ChildEnvironment.variables().map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in arguments + variables { free(text) } }
    var pid: pid_t = 0
    let status = posix_spawnp(&pid, path, &actions, &attributes, &arguments, &variables)
    guard status == 0 else {
      for descriptor in [input, output, errors] { Glibc.close(descriptor) }
      throw SystemFailure("spawn", path: path, number: status)
    }
    return Program(
      name: Files.last(of: path), pid: pid, state: State(input: input, output: output, errors: errors), pool: pool,
      time: time)
  }

  /// Closes the program's standard input, which tells it to let go of everything, and waits until it has ended.
  ///
  /// - Returns: How it ended.
  @discardableResult
  func close() async -> String {
    let deadline = time.monotonicNanoseconds() + Self.patience.wholeNanoseconds
    return await pool.run {
      self.state.withLock { state in
        if state.input >= 0 { Glibc.close(state.input) }
        state.input = -1
        self.collect(&state, until: deadline)
        return state.ending ?? "ended"
      }
    }
  }

  /// Waits for its end, and brings it about after `deadline`. Blocks.
  private func collect(_ state: inout State, until deadline: Int64) {
    guard state.ending == nil else { return }
    var (status, asked): (Int32, Bool) = (0, false)
    while true {
      let found = retryingInterrupts { waitpid(pid, &status, WNOHANG) }
      if found != 0 { break }
      let now = time.monotonicNanoseconds()
      if now > deadline + 5_000_000_000 {
        kill(-pid, SIGKILL)
      } else if now > deadline, !asked {
        asked = true
        kill(-pid, SIGTERM)
      }
      var nothing = pollfd()
      _ = poll(&nothing, 0, 5)
    }
    let signal = status & 0x7f
    state.ending = signal == 0 ? "ended with code \((status >> 8) & 0xff)" : "was ended by signal \(signal)"
  }

  // MARK: Requests

  /// - Parameters:
  ///   - limit: How long the program may take to answer.
  ///   - holdLimit: For the error, if the program could not hold in time.
  func call<T: Decodable & Sendable>(
    _ call: String, _ fields: [String: JSONValue] = [:], as type: T.Type, within limit: Duration,
    holdLimit: Duration = .zero, progress: @escaping @Sendable (Int64) -> Void = { _ in }
  ) async throws(DriverError) -> T {
    if Task.isCancelled { throw .cancelled }
    let result: Result<JSONValue, DriverError> = await withTaskCancellationHandler {
      await pool.run {
        do throws(DriverError) {
          return .success(try self.exchange(call, fields, within: limit, holdLimit: holdLimit, progress: progress))
        } catch { return .failure(error) }
      }
    } onCancel: {
      mustEnd.withLock { $0 = true }
    }
    let json = try result.get()
    do {
      return try CanonicalJSON.decode(T.self, from: try CanonicalJSON.encode(json))
    } catch {
      throw .engineFailed("\(name) answers \(call) with something else than the protocol says", log: "\(error)")
    }
  }

  struct Nothing: Decodable, Sendable {}

  func tell(
    _ call: String, _ fields: [String: JSONValue] = [:], within limit: Duration
  ) async throws(DriverError) { _ = try await self.call(call, fields, as: Nothing.self, within: limit) }

  /// Blocks.
  private func exchange(
    _ call: String, _ fields: [String: JSONValue], within limit: Duration, holdLimit: Duration,
    progress: (Int64) -> Void
  ) throws(DriverError) -> JSONValue {
    let result: Result<JSONValue, DriverError> = state.withLock { state in
      do throws(DriverError) {
        let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
        state.lastID += 1
        let id = state.lastID
        var request = fields
        request["id"] = .integer(id)
        request["call"] = .string(call)
        let line: [UInt8]
        do { line = try CanonicalJSON.encode(JSONValue.object(request)) + [10] } catch { throw DriverError(error) }
        try send(line, &state, call)
        while true {
          let reply = try self.reply(&state, call, until: deadline, limit)
          guard reply.id == id else {
            throw .engineFailed(
              "\(name) answers request \(reply.id.map(String.init) ?? "without a number") instead of \(id)", log: "")
          }
          if let error = reply.error { throw DriverError(error, limit: holdLimit) }
          if let result = reply.result { return .success(result) }
          if let done = reply.progress?.doneBytes { progress(max(0, done)) }
        }
      } catch { return .failure(error) }
    }
    return try result.get()
  }

  private func send(_ line: [UInt8], _ state: inout State, _ call: String) throws(DriverError) {
    guard state.input >= 0, state.ending == nil else {
      throw .engineFailed("\(name) \(state.ending ?? "was closed") before \(call)", log: words(state))
    }
    var sent = 0
    while sent < line.count {
      let count = line.withUnsafeBytes { bytes in
        retryingInterrupts {
          Glibc.send(state.input, bytes.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
        }
      }
      guard count > 0 else { throw gone(&state, call) }
      sent += count
    }
  }

  /// One line of the program's, as a reply.
  private func reply(
    _ state: inout State, _ call: String, until deadline: Int64, _ limit: Duration
  ) throws(DriverError) -> Wire.Reply {
    var searched = 0
    while true {
      if let end = state.buffer[searched...].firstIndex(of: 10) {
        let line = Array(state.buffer[..<end])
        state.buffer.removeSubrange(...end)
        do { return try CanonicalJSON.decode(Wire.Reply.self, from: line) } catch {
          throw .engineFailed(
            "\(name) answers \(call) with a line that is no reply",
            log: String(String(decoding: line.prefix(200), as: UTF8.self)))
        }
      }
      searched = state.buffer.count
      guard searched <= Wire.lineLimit else {
        end(&state)
        throw .engineFailed("\(name) answers \(call) with a line of more than \(Wire.lineLimit) bytes", log: "")
      }
      if mustEnd.withLock({ $0 }) {
        end(&state)
        throw .cancelled
      }
      guard time.monotonicNanoseconds() < deadline else {
        end(&state)
        throw .engineFailed("\(name) did not answer \(call) within \(limit.brief)", log: words(state))
      }
      var descriptor = pollfd(fd: state.output, events: Int16(POLLIN), revents: 0)
      guard poll(&descriptor, 1, 50) > 0 else {
        var status = stat()
        if fstat(state.errors, &status) == 0, Int64(status.st_size) > Self.errorsLimit {
          end(&state)
          throw .engineFailed("\(name) writes without end to its standard error", log: "")
        }
        continue
      }
      var part = [UInt8](repeating: 0, count: 65_536)
      let count = part.withUnsafeMutableBytes { bytes in
        retryingInterrupts { read(state.output, bytes.baseAddress!, bytes.count) }
      }
      guard count > 0 else { throw gone(&state, call) }
      state.buffer += part[..<count]
    }
  }

  /// Ends it at once: what it holds goes with it.
  private func end(_ state: inout State) {
    if state.input >= 0 { Glibc.close(state.input) }
    state.input = -1
    collect(&state, until: time.monotonicNanoseconds())
  }

  private func gone(_ state: inout State, _ call: String) -> DriverError {
    end(&state)
    return .engineFailed("\(name) \(state.ending ?? "ended") during \(call)", log: words(state))
  }

  /// The end of what it said on standard error.
  private func words(_ state: borrowing State) -> String {
    var status = stat()
    guard fstat(state.errors, &status) == 0 else { return "" }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let from = max(0, Int(status.st_size) - bytes.count)
    let (count, errors) = (bytes.count, state.errors)
    let got = bytes.withUnsafeMutableBytes { pread(errors, $0.baseAddress!, count, off_t(from)) }
    return String(decoding: bytes.prefix(max(0, got)), as: UTF8.self).split(whereSeparator: \.isNewline).suffix(8)
      .joined(separator: "; ")
  }
}
