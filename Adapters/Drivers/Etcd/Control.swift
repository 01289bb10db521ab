import Core
import DriverKit
import Glibc
import IO

/// Runs `etcdctl`; the address and the credential go by its environment, never by an argument.
struct Control: Sendable {
  var program: String
  var variables: [String: String]
  /// A directory of ours for what it prints.
  var scratch: String

  struct Output: Sendable {
    var code: Int32
    var text: [UInt8]
    var errors: String
  }

  /// One run, which may go on while something else is done. Calls block.
  struct Job: Sendable {
    let process: OwnProcess
    private let out: File
    private let err: File

    init(_ control: Control, _ words: [String]) throws(SystemFailure) {
      out = try Self.unlinked(control.scratch)
      err = try Self.unlinked(control.scratch)
      process = try OwnProcess.start(
        [control.program] + words, output: out.descriptor, errors: err.descriptor, variables: control.variables)
    }

    private static func unlinked(_ directory: String) throws(SystemFailure) -> File {
      var template = Array("\(directory)/output-XXXXXX".utf8CString)
      let descriptor = mkstemp(&template)
      guard descriptor >= 0 else { throw SystemFailure("mkstemp", path: directory) }
      unlink(template)
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      return File(adopting: descriptor, path: "output")
    }

    func output(_ code: Int32, limitBytes: Int = 1 << 20) throws(SystemFailure) -> Output {
      let size = Int(try out.status().st_size)
      guard size <= limitBytes else { throw SystemFailure("read", number: EFBIG) }
      let errors = Int64(try err.status().st_size)
      let tail = try err.read(at: max(0, errors - 8192), count: Int(min(errors, 8192)))
      return Output(
        code: code, text: size == 0 ? [] : try out.read(at: 0, count: size),
        errors: String(decoding: tail, as: UTF8.self))
    }
  }
}

extension Control.Output {
  /// What went wrong, as the driver's own errors.
  ///
  /// - Parameter doing: For people.
  func failure(at peer: String, doing: String) -> DriverError {
    let last = errors.split(whereSeparator: \.isNewline).suffix(2).joined(separator: "; ")
    let said = errors.lowercased()
    if said.contains("invalid user id or password") || said.contains("authentication failed")
      || said.contains("invalid auth token") || said.contains("user name is empty")
    {
      return .authenticationFailed("\(peer): \(last)")
    }
    if said.contains("permission denied") {
      return .permissionDenied(
        "\(doing) at \(peer)", needs: "a user with the role root; for queries, the range that is read")
    }
    if said.contains("connection refused") || said.contains("deadline exceeded") || said.contains("no such host")
      || said.contains("connection error") || said.contains("unavailable") || said.contains("error reading from server")
    {
      return .unreachable("\(peer): \(last)")
    }
    return .engineFailed("\(doing) at \(peer) failed", log: last)
  }
}

extension EtcdDriver {
  /// Runs `etcdctl` to its end.
  ///
  /// - Parameter limitBytes: Of what it prints on its first channel; more is an error.
  func run(
    _ control: Control, _ words: [String], limitBytes: Int = 1 << 20, interruption: Interruption
  ) async throws(DriverError) -> Control.Output {
    let (pool, time) = (environment.pool, environment.time)
    do throws(SystemFailure) {
      let job = try await pool.run { () throws(SystemFailure) in try Control.Job(control, words) }
      while true {
        if let code = await pool.run({ job.process.ended() }) {
          return try await pool.run { () throws(SystemFailure) in try job.output(code, limitBytes: limitBytes) }
        }
        let isCancelled = (try? await time.sleep(for: .milliseconds(2))) == nil
        guard isCancelled || interruption.isSet else { continue }
        await pool.run {
          job.process.kill()
          _ = job.process.wait()
        }
        throw SystemFailure("wait", number: ECANCELED)
      }
    } catch {
      switch (error.call, error.number) {
      case ("wait", ECANCELED): throw .cancelled
      case ("spawn", _): throw .engineFailed("\(control.program) can't be run", log: error.message)
      case ("read", EFBIG): throw .engineFailed("\(control.program) said more than \(limitBytes) bytes", log: "")
      default: throw DriverError(error)
      }
    }
  }
}
