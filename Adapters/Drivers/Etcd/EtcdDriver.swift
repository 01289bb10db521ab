import Core
import DriverKit
import Glibc
import IO

/// One etcd, reached through one of its members.
struct EtcdDriver: DataStoreDriver {
  let configuration: EtcdConfiguration
  let environment: DriverEnvironment

  init(_ configuration: EtcdConfiguration, _ environment: DriverEnvironment) {
    (self.configuration, self.environment) = (configuration, environment)
  }

  var peer: String { configuration.endpoint }

  func traits() async throws(DriverError) -> DriverTraits {
    let status = try await withScratch { scratch throws(DriverError) in try await self.status(scratch) }
    return DriverTraits(
      version: try Self.version(status.version).description,
      hold: .moment(
        how: "the snapshot is of one revision, begun at the mark; etcd has nothing that makes writers wait"),
      sizeBytes: status.sizeBytes > 0 ? status.sizeBytes : nil)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession { EtcdCapture(self, context) }

  // MARK: What a server says about itself

  struct Status: Sendable, Equatable {
    var version: String
    var revision: Int64
    var sizeBytes: Int64
    var cluster: String
  }

  static func version(_ text: String) throws(DriverError) -> EngineVersion {
    guard let version = EngineVersion(text), version.isAtLeast(3, 4) else {
      throw .unsupported("etcd \(text.prefix(40)) is older than 3.4, the oldest this driver knows")
    }
    return version
  }

  /// - Parameter scratch: A directory of ours.
  func status(_ scratch: String, interruption: Interruption = Interruption()) async throws(DriverError) -> Status {
    let answer = try await json(
      ["endpoint", "status", "-w", "json"], doing: "endpoint status", scratch, interruption: interruption)
    guard let status = answer.array?.first?["Status"], let version = status["version"]?.string,
      let revision = status["header"]?["revision"]?.integer, revision >= 0
    else { throw .engineFailed("\(peer) doesn't say where it stands", log: "") }
    return Status(
      version: version, revision: revision, sizeBytes: status["dbSize"]?.integer ?? 0,
      cluster: status["header"]?["cluster_id"]?.integer.map { String($0) } ?? "")
  }

  // MARK: Asking it

  func control(_ scratch: String) async throws(DriverError) -> Control {
    var variables = [
      "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": configuration.endpoint,
      "ETCDCTL_DIAL_TIMEOUT": "\(max(1, configuration.timeout.wholeNanoseconds / 1_000_000))ms",
      "ETCDCTL_COMMAND_TIMEOUT": "\(max(1, configuration.timeout.wholeNanoseconds / 1_000_000))ms",
    ]
    if let user = configuration.user, let reference = configuration.password {
      do throws(AnyFailure) {
        variables["ETCDCTL_USER"] = "\(user):\(try await environment.resolve(reference).revealed())"
      } catch {
        throw error.isCancellation ? .cancelled : .system(.init(error.report))
      }
    }
    variables["ETCDCTL_CACERT"] = configuration.authorityFile
    variables["ETCDCTL_CERT"] = configuration.certificateFile
    variables["ETCDCTL_KEY"] = configuration.keyFile
    return Control(program: configuration.control, variables: variables, scratch: scratch)
  }

  func json(
    _ words: [String], doing: String, _ scratch: String, limitBytes: Int = 1 << 20,
    interruption: Interruption = Interruption()
  ) async throws(DriverError) -> JSONValue {
    let output = try await run(try await control(scratch), words, limitBytes: limitBytes, interruption: interruption)
    guard output.code == 0 else { throw output.failure(at: peer, doing: doing) }
    guard let value = try? CanonicalJSON.decode(JSONValue.self, from: output.text) else {
      throw .engineFailed("\(doing) at \(peer) gave no JSON", log: "")
    }
    return value
  }

  /// Runs `body` with a directory that is gone afterwards.
  func withScratch<T: Sendable>(_ body: (String) async throws(DriverError) -> T) async throws(DriverError) -> T {
    let path = try await environment.pool.run { () throws(DriverError) -> String in
      var template = Array("/tmp/salvor-etcd-XXXXXX".utf8CString)
      guard mkdtemp(&template) != nil else { throw DriverError(SystemFailure("mkdtemp", path: "/tmp")) }
      return template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }
    let result: Result<T, DriverError>
    do throws(DriverError) { result = .success(try await body(path)) } catch { result = .failure(error) }
    await environment.pool.run { try? Files.removeTree(path) }
    return try result.get()
  }

  /// `GET key`, `PREFIX prefix`, `COUNT [prefix]`, `REVISION`.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let words = text.split(maxSplits: 1, whereSeparator: \.isWhitespace).map(String.init)
    let operand = words.count > 1 ? words[1].trimmingPrefix { $0.isWhitespace }.description : nil
    guard operand?.hasPrefix("-") != true, operand?.contains("\0") != true else {
      throw .queryFailed("a key that begins with a dash can't be asked for")
    }
    let verb = words.first?.uppercased()
    return try await withScratch { scratch throws(DriverError) in
      switch (verb, operand) {
      case ("REVISION", nil):
        return QueryResult(columns: ["revision"], rows: [[String(try await self.status(scratch).revision)]])
      case ("COUNT", _):
        let found = try await self.get([operand ?? "", "--prefix", "--limit", "1"], scratch, limit)
        return QueryResult(columns: ["keys"], rows: [[String(found["count"]?.integer ?? 0)]])
      case ("GET", let key?): return Self.rows(try await self.get([key], scratch, limit), limit)
      case ("PREFIX", let prefix?):
        let most = limit.rows < Int.max - 1 ? limit.rows + 1 : limit.rows
        return Self.rows(try await self.get([prefix, "--prefix", "--limit", String(most)], scratch, limit), limit)
      default: throw .queryFailed("it is none of GET key, PREFIX prefix, COUNT [prefix], REVISION")
      }
    }
  }

  private func get(_ words: [String], _ scratch: String, _ limit: QueryLimit) async throws(DriverError) -> JSONValue {
    try await json(["get"] + words + ["-w", "json"], doing: "get", scratch, limitBytes: 1 << 30)
  }

  private static func rows(_ found: JSONValue, _ limit: QueryLimit) -> QueryResult {
    let keys = found["kvs"]?.array ?? []
    func text(_ value: JSONValue?) -> String {
      String(decoding: value?.string.flatMap { Base64.decode($0) } ?? [], as: UTF8.self)
    }
    return QueryResult(
      columns: ["key", "value", "revision"],
      rows: keys.prefix(limit.rows).map {
        [text($0["key"]), text($0["value"]), $0["mod_revision"]?.integer.map { String($0) }]
      }, isTruncated: keys.count > limit.rows)
  }
}

/// Such as 3.4.23.
struct EngineVersion: Sendable, Equatable, CustomStringConvertible {
  var numbers: [Int]

  init?(_ text: some StringProtocol) {
    let parts = text.prefix { $0.isNumber || $0 == "." }.split(separator: ".").map { Int($0) }
    guard parts.count >= 2, parts.allSatisfy({ $0 != nil && $0! < 1_000_000 }) else { return nil }
    numbers = parts.compactMap { $0 }
  }

  func isAtLeast(_ major: Int, _ minor: Int) -> Bool {
    numbers[0] > major || numbers[0] == major && numbers[1] >= minor
  }

  var description: String { numbers.map(String.init).joined(separator: ".") }
}
