import Core
import DriverKit
import Glibc
import IO

/// A server of our own over a directory, on a port of loopback that only we have the token for.
///
/// `<directory>/store/jetstream/$G/streams` is what it serves; `<directory>/server.*` are its configuration and log.
enum ScratchServer {
  static let account = "$G"

  static func account(in directory: String) -> String { "\(directory)/store/jetstream/\(account)" }

  static func configuration(_ directory: String, token: String) -> String {
    """
    host: "127.0.0.1"
    port: -1
    server_name: "salvor-proof"
    ports_file_dir: "\(directory)"
    pid_file: "\(directory)/server.pid"
    log_file: "\(directory)/server.log"
    max_payload: 67108864
    max_pending: 268435456
    jetstream { store_dir: "\(directory)/store", max_file_store: 1125899906842624, max_memory_store: 67108864 }
    authorization { token: "\(token)" }

    """
  }
}

extension NATSDriver {
  /// Runs `body` on a blocking thread with a server over `directory`, and ends the server the ordinary way, so that it writes
  /// out what it has.
  ///
  /// - Throws: ``DriverError/engineFailed(_:log:)`` if the server doesn't start.
  func withScratchServer<T: Sendable>(
    at directory: String, interruption: Interruption,
    _ body: @escaping @Sendable (JetStream) throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let token = Hex.encode(environment.randomness.bytes(16))
    // The server goes when whoever started it does.
    let words = ["setpriv", "--pdeathsig", "KILL", "--", configuration.binary, "-c", "\(directory)/server.conf"]
    let (configuration, time) = (configuration, environment.time)
    let child = try await environment.pool.run { () throws(DriverError) -> OwnProcess in
      do throws(SystemFailure) {
        try Files.createDirectory(directory, mode: 0o700)
        try Files.createDirectory(ScratchServer.account(in: directory) + "/streams", mode: 0o700)
        for name in try Files.names(in: directory).map(\.lossyText) where name.hasSuffix(".ports") {
          try Files.removeTree("\(directory)/\(name)")
        }
        try Files.removeTree("\(directory)/server.log")
        try Files.replace(
          "\(directory)/server.conf", with: Array(ScratchServer.configuration(directory, token: token).utf8))
        return try OwnProcess.start(words)
      } catch {
        if error.call == "spawn" { throw .engineFailed("\(configuration.binary) can't be run", log: error.message) }
        throw DriverError(error)
      }
    }
    let result: Result<T, DriverError>
    do throws(DriverError) {
      let port = try await self.port(of: child, at: directory, interruption, time)
      result = .success(
        try await environment.pool.run { () throws(DriverError) -> T in
          let client: Client
          do throws(WireError) {
            let socket = try Socket.connect(
              host: "127.0.0.1", port: port, patience: .seconds(5), interruption: interruption)
            client = try Client(
              socket, as: .token(Secret(token)), inbox: "_INBOX.proof", patience: .seconds(60),
              interruption: interruption)
          } catch { throw error.driverError(at: "the proving server", doing: "the connection") }
          return try body(JetStream(client: client))
        })
    } catch { result = .failure(error) }
    let isKilled = interruption.isSet
    await environment.pool.run {
      child.kill(isKilled ? SIGKILL : SIGTERM)
      _ = child.wait()
    }
    return try result.get()
  }

  /// Waits until the server says where it listens, which is after it has read everything.
  private func port(
    of child: OwnProcess, at directory: String, _ interruption: Interruption, _ time: any Timekeeper
  ) async throws(DriverError) -> UInt16 {
    while true {
      let found = await environment.pool.run { () -> UInt16? in
        guard let name = (try? Files.names(in: directory))?.map(\.lossyText).first(where: { $0.hasSuffix(".ports") }),
          let bytes = try? Files.read("\(directory)/\(name)", limitBytes: 65_536),
          let value = try? CanonicalJSON.decode(JSONValue.self, from: bytes),
          let text = value["nats"]?.array?.first?.string?.split(separator: ":").last
        else { return nil }
        return UInt16(text)
      }
      if let found { return found }
      if let code = await environment.pool.run({ child.ended() }) {
        let log = await environment.pool.run { (try? Files.read("\(directory)/server.log", limitBytes: 1 << 24)) ?? [] }
        let last = String(decoding: log.suffix(4096), as: UTF8.self).split(whereSeparator: \.isNewline).suffix(3)
        let said = last.joined(separator: "; ")
        // The shell's codes for a program that can't be found or run.
        if code == 127 || code == 126 { throw .engineFailed("\(configuration.binary) can't be run", log: said) }
        throw .engineFailed("\(configuration.binary) ended with code \(code)", log: said)
      }
      if interruption.isSet { throw .cancelled }
      do { try await time.sleep(for: .milliseconds(5)) } catch { throw DriverError(error) }
    }
  }

  /// What a server of our own finds in an account's directory: the content of each stream, message by message.
  ///
  /// While it looks the streams have settings under which nothing vanishes by age or limit; their own are put back, and
  /// their consumers, which the server never sees.
  ///
  /// - Parameters:
  ///   - account: `…/streams` in it; on the same file system as `directory`.
  ///   - directory: For the server; cleared.
  ///   - look: What is done with each stream instead; blocks.
  func contents(
    of account: String, _ streams: [CapturedStream], provedIn directory: String, interruption: Interruption,
    look: @escaping @Sendable (JetStream, String) throws(WireError) -> StreamContent = {
      (server, name) throws(WireError) in try server.digest(of: name)
    }
  ) async throws(DriverError) -> [String: StreamContent] {
    let proving = ScratchServer.account(in: directory)
    try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        try Files.removeTree(directory)
        try Files.createDirectory(directory, mode: 0o700)
        try Files.createDirectory("\(directory)/store", mode: 0o700)
        try Files.createDirectory("\(directory)/store/jetstream", mode: 0o700)
        try Files.rename(account, to: proving)
      } catch { throw DriverError(error) }
      for stream in streams { try StreamFiles.putAside(stream, in: proving, to: "\(directory)/aside") }
    }
    let names = streams.map(\.name)
    let found = try await withScratchServer(at: directory, interruption: interruption) { server throws(DriverError) in
      var found: [String: StreamContent] = [:]
      do throws(WireError) {
        for name in names { found[name] = try look(server, name) }
      } catch {
        switch error {
        case .api(_, let text): throw .corrupt("the server doesn't take a captured stream: \(text)")
        case .garbled(let text): throw .corrupt("a captured stream: \(text)")
        default: throw error.driverError(at: "the proving server", doing: "reading streams")
        }
      }
      return found
    }
    try await environment.pool.run { () throws(DriverError) in
      for stream in streams { try StreamFiles.putBack(stream, in: proving, from: "\(directory)/aside") }
      do throws(SystemFailure) {
        try Files.rename(proving, to: account)
        try Files.removeTree(directory)
      } catch { throw DriverError(error) }
    }
    return found
  }

  /// The version of ``NATSConfiguration/binary``.
  func installedVersion() async throws(DriverError) -> EngineVersion {
    let binary = configuration.binary
    return try await environment.pool.run { () throws(DriverError) -> EngineVersion in
      let result: (code: Int32, output: String)
      do throws(SystemFailure) { result = try OwnProcess.run([binary, "--version"]) } catch {
        throw .engineFailed("\(binary) can't be run", log: error.message)
      }
      // `nats-server: v2.9.10`
      let text = result.output.split(separator: " ").last.map(String.init) ?? ""
      guard result.code == 0, let version = EngineVersion(text.hasPrefix("v") ? String(text.dropFirst()) : text) else {
        throw .engineFailed("\(binary) doesn't tell its version", log: result.output)
      }
      return version
    }
  }
}

/// Such as 2.9.10.
struct EngineVersion: Sendable, Equatable, CustomStringConvertible {
  var numbers: [Int]

  init?(_ text: String) {
    let parts = text.prefix { $0.isNumber || $0 == "." }.split(separator: ".").map { Int($0) }
    guard parts.count >= 2, parts.allSatisfy({ $0 != nil && $0! < 1_000_000 }) else { return nil }
    numbers = parts.compactMap { $0 }
  }

  func isAtLeast(_ major: Int, _ minor: Int) -> Bool {
    numbers[0] > major || numbers[0] == major && numbers[1] >= minor
  }

  /// A server reads what an older one wrote; a newer one's layout it doesn't know.
  func reads(_ other: EngineVersion) -> Bool { isAtLeast(other.numbers[0], other.numbers[1]) }

  var description: String { numbers.map(String.init).joined(separator: ".") }
}
