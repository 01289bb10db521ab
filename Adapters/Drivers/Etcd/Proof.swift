import Core
import DriverKit
import Glibc
import IO
import Synchronization
import Web

/// The name of a proving server's socket, another one for each server of this process.
///
/// Connections are shared by address, and the address of a socket begins with the number of a descriptor, which comes back as soon
/// as it was given up: with one name for all, what asks one server could be answered by another, about another store.
struct ProvingSocket: Sendable {
  let name: String

  private static let count = Atomic<Int>(0)

  init() { name = "c\(Self.count.add(1, ordering: .relaxed).newValue)" }

  /// What `--listen-client-urls` takes; the server puts its port, which means nothing, behind the name.
  var listened: String { "unix://\(name):1" }

  /// Where a directory holds the socket; the directory may lie deeper than a socket's address can say, its descriptor is short.
  func address(in directory: File) -> String {
    "http+unix://%2Fproc%2Fself%2Ffd%2F\(directory.descriptor)%2F\(name)%3A1"
  }
}

extension EtcdDriver {
  static let noDigest =
    "no content digest: the restored copy doesn't take the configured user, or doesn't let it read every key"

  /// What `etcdctl snapshot status` says of a file.
  struct Snapshot: Sendable, Equatable {
    var revision: Int64
    var keys: Int64
    var hash: Int64
    var sizeBytes: Int64
  }

  func inspect(_ file: String, in scratch: String, interruption: Interruption) async throws(DriverError) -> Snapshot {
    let control = Control(program: configuration.control, variables: ["ETCDCTL_API": "3"], scratch: scratch)
    let output = try await run(control, ["snapshot", "status", file, "-w", "json"], interruption: interruption)
    guard output.code == 0, let value = try? CanonicalJSON.decode(JSONValue.self, from: output.text),
      let revision = value["revision"]?.integer, let keys = value["totalKey"]?.integer,
      let hash = value["hash"]?.integer, let size = value["totalSize"]?.integer
    else {
      throw .corrupt("\(control.program) doesn't take the snapshot: \(output.errors.split(separator: "\n").last ?? "")")
    }
    return Snapshot(revision: revision, keys: keys, hash: hash, sizeBytes: size)
  }

  /// Lays a data directory out from a snapshot, whose own checksum is checked by the program that does it.
  func lay(
    _ file: String, at directory: String, name: String, peerURL: String, token: String, in scratch: String,
    interruption: Interruption
  ) async throws(DriverError) {
    let control = Control(program: configuration.control, variables: ["ETCDCTL_API": "3"], scratch: scratch)
    let output = try await run(
      control,
      [
        "snapshot", "restore", file, "--data-dir", directory, "--name", name, "--initial-cluster", "\(name)=\(peerURL)",
        "--initial-advertise-peer-urls", peerURL, "--initial-cluster-token", token,
      ], interruption: interruption)
    guard output.code == 0 else {
      throw .corrupt(
        "\(control.program) doesn't restore the snapshot: \(output.errors.split(separator: "\n").last ?? "")")
    }
  }

  /// Starts a server of our own on what the snapshot holds, reachable through a socket in our directory, and reads every key
  /// at `revision`.
  ///
  /// Leases may end while it runs; what is read at a revision doesn't change by that.
  ///
  /// - Parameter directory: For the server; cleared, and gone afterwards.
  /// - Returns: `nil` if this user may not read everything.
  func proof(
    of file: String, revision: Int64, in directory: String, interruption: Interruption
  ) async throws(DriverError) -> ContentDigest? {
    let binary = configuration.binary
    try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        try Files.removeTree(directory)
        try Files.createDirectory(directory, mode: 0o700)
      } catch { throw DriverError(error) }
    }
    // Nobody listens at the peer's address: the only member is the server itself.
    let nowhere = "http://127.0.0.1:1"
    let socket = ProvingSocket()
    try await lay(
      file, at: "\(directory)/data", name: "salvor", peerURL: nowhere, token: "salvor-proof", in: directory,
      interruption: interruption)
    let child = try await environment.pool.run { () throws(DriverError) -> OwnProcess in
      do throws(SystemFailure) {
        let log = try File("\(directory)/log", O_WRONLY | O_CREAT | O_TRUNC)
        // The server goes when whoever started it does.
        return try OwnProcess.start(
          [
            "env", "-C", directory, "setpriv", "--pdeathsig", "KILL", "--", binary, "--name", "salvor", "--data-dir",
            "data", "--listen-client-urls", socket.listened, "--advertise-client-urls", socket.listened,
            "--listen-peer-urls", "unix://p:1", "--initial-advertise-peer-urls", nowhere, "--initial-cluster",
            "salvor=\(nowhere)", "--initial-cluster-token", "salvor-proof", "--quota-backend-bytes", "17179869184",
          ], output: log.descriptor)
      } catch {
        if error.call == "spawn" { throw .engineFailed("\(binary) can't be run", log: error.message) }
        throw DriverError(error)
      }
    }
    let result: Result<ContentDigest?, DriverError>
    do throws(DriverError) {
      let place: File
      do throws(SystemFailure) { place = try File(directory, O_RDONLY | O_DIRECTORY) } catch {
        throw DriverError(error)
      }
      result = .success(
        try await KeyReader(place, socket, self, child, interruption).digest(at: revision))
    } catch {
      result = .failure(error)
    }
    await environment.pool.run {
      child.kill()
      _ = child.wait()
    }
    let digest = try result.get()
    await environment.pool.run { try? Files.removeTree(directory) }
    return digest
  }

  /// The version of ``EtcdConfiguration/binary``.
  func installedVersion() async throws(DriverError) -> EngineVersion {
    let binary = configuration.binary
    return try await environment.pool.run { () throws(DriverError) -> EngineVersion in
      let result: (code: Int32, output: String)
      do throws(SystemFailure) { result = try OwnProcess.run([binary, "--version"]) } catch {
        throw .engineFailed("\(binary) can't be run", log: error.message)
      }
      // `etcd Version: 3.4.23`, and more lines.
      let line = result.output.split(whereSeparator: \.isNewline).first { $0.contains("Version:") }
      guard result.code == 0, let text = line?.split(separator: " ").last, let version = EngineVersion(text) else {
        throw .engineFailed("\(binary) doesn't tell its version", log: String(result.output.suffix(300)))
      }
      return version
    }
  }
}

/// Reads all keys of a server of our own, page by page, through its JSON gateway.
private struct KeyReader: Sendable {
  private let place: File
  private let address: String
  private let driver: EtcdDriver
  private let child: OwnProcess
  private let interruption: Interruption
  private let client: WebClient

  init(
    _ place: File, _ socket: ProvingSocket, _ driver: EtcdDriver, _ child: OwnProcess, _ interruption: Interruption
  ) throws(DriverError) {
    address = socket.address(in: place)
    (self.place, self.driver, self.child, self.interruption) = (place, driver, child, interruption)
    do throws(WebFailure) { client = try WebClient(time: driver.environment.time) } catch {
      throw .engineFailed("the proving server can't be asked", log: error.description)
    }
  }

  /// The scheme `etcd-keys-v1`: of each key in order its create and modification revisions, version, lease, and key and value
  /// with their lengths.
  ///
  /// - Returns: `nil` if not everything may be read.
  func digest(at revision: Int64) async throws(DriverError) -> ContentDigest? {
    try await waitUntilItAnswers()
    guard let token = try await authenticate() else { return nil }
    var running = RunningDigest()
    var count: Int64 = 0
    // All keys are above the empty one; the end `\0` stands for no end.
    var start: [UInt8] = [0]
    while true {
      let body: JSONValue = [
        "key": .string(Base64.encode(start)), "range_end": "AA==", "limit": 200, "revision": .integer(revision),
        "serializable": true,
      ]
      let (status, answer) = try await ask("kv/range", body, token)
      if status == 403 || status == 401 { return nil }
      guard status == 200 else { throw .corrupt("the restored server doesn't give its keys: \(Self.said(answer))") }
      let keys = answer["kvs"]?.array ?? []
      for entry in keys {
        guard let key = entry["key"]?.string.flatMap({ Base64.decode($0) }), !key.isEmpty,
          !key.lexicographicallyPrecedes(start)
        else { throw .corrupt("the restored server gives its keys out of order") }
        let value = entry["value"]?.string.flatMap { Base64.decode($0) } ?? []
        func number(_ name: String) -> String { entry[name]?.string ?? "0" }
        running.update(
          "\(number("create_revision")) \(number("mod_revision")) \(number("version")) \(number("lease")) ")
        running.update("\(key.count) \(value.count)\n")
        running.update(key)
        running.update(value)
        count += 1
        start = key + [0]
      }
      guard !keys.isEmpty, answer["more"]?.bool == true else { break }
    }
    return ContentDigest(
      scheme: "etcd-keys-v1", parts: ["keys": .init(digest: running.finish().hex, count: count)])
  }

  /// - Returns: A token, empty where none is needed; `nil` if the restored server doesn't take the configured user.
  private func authenticate() async throws(DriverError) -> String? {
    guard let user = driver.configuration.user, let reference = driver.configuration.password else { return "" }
    let password: Secret
    do throws(AnyFailure) { password = try await driver.environment.resolve(reference) } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    let (status, answer) = try await ask(
      "auth/authenticate", ["name": .string(user), "password": .string(password.revealed())], "")
    if status == 200 { return answer["token"]?.string }
    return Self.said(answer).contains("not enabled") ? "" : nil
  }

  private func waitUntilItAnswers() async throws(DriverError) {
    // It reads its database before it answers.
    let limit = driver.environment.time.monotonicNanoseconds() + 600_000_000_000
    while true {
      do throws(DriverError) {
        if try await ask("maintenance/status", [:], "").status == 200 { return }
      } catch {
        if case .cancelled = error { throw error }
        if driver.environment.time.monotonicNanoseconds() > limit { throw error }
      }
      let (child, place) = (child, place.path)
      if let code = await driver.environment.pool.run({ child.ended() }) {
        let log = await driver.environment.pool.run { (try? Files.read("\(place)/log", limitBytes: 1 << 24)) ?? [] }
        let last = String(decoding: log.suffix(2048), as: UTF8.self).split(whereSeparator: \.isNewline).suffix(2)
        if code == 126 || code == 127 {
          throw .engineFailed("\(driver.configuration.binary) can't be run", log: last.joined(separator: "; "))
        }
        throw .corrupt("\(driver.configuration.binary) refuses the restored snapshot: \(last.joined(separator: "; "))")
      }
      do { try await driver.environment.time.sleep(for: .milliseconds(20)) } catch { throw DriverError(error) }
    }
  }

  private func ask(
    _ path: String, _ body: JSONValue, _ token: String
  ) async throws(DriverError) -> (status: Int, JSONValue) {
    if interruption.isSet { throw .cancelled }
    var request = WebRequest(.post, "\(address)/v3/\(path)")
    // A socket's path is no host that a server would take.
    request.headers = [("Content-Type", "application/json"), ("Host", "localhost")]
    if !token.isEmpty { request.headers.append(("Authorization", token)) }
    do { request.body = try CanonicalJSON.encode(body) } catch { throw DriverError(error) }
    // 200 values of at most 1.5 MiB, as a server takes them unless it is told otherwise, in base64.
    request.responseLimitBytes = 512 << 20
    do throws(WebFailure) {
      let response = try await client.send(request)
      return (response.status, (try? CanonicalJSON.decode(JSONValue.self, from: response.body)) ?? [:])
    } catch {
      if error == .cancelled { throw .cancelled }
      throw .engineFailed("the proving server doesn't answer", log: error.description)
    }
  }

  private static func said(_ answer: JSONValue) -> String {
    answer["message"]?.string ?? answer["error"]?.string ?? "no reason"
  }
}
