import Core
import DriverKit
import Glibc
import IO
import Web

/// One RabbitMQ node on this machine.
struct RabbitMQDriver: DataStoreDriver {
  let configuration: RabbitMQConfiguration
  let environment: DriverEnvironment

  init(_ configuration: RabbitMQConfiguration, _ environment: DriverEnvironment) {
    (self.configuration, self.environment) = (configuration, environment)
  }

  var peer: String { configuration.peer }

  func traits() async throws(DriverError) -> DriverTraits {
    let version = try await runningVersion()
    let live = configuration.dataDirectory
    let (node, size) = try await environment.pool.run { () throws(DriverError) -> (NodeFiles, Int64) in
      let node = try NodeFiles(live)
      // What goes away while it is counted is not counted.
      let entries = (try? TreeReader.scan(live)) ?? []
      return (node, entries.reduce(0) { $0 + ($1.metadata.kind == .regular ? $1.metadata.size : 0) })
    }
    try node.requireAlone()
    let hold: HoldSupport =
      switch configuration.hold {
      case .process: .held(how: "the node's process stands still, which ends with ours")
      case .none:
        .moment(how: "the node's process stands still for its own copy, which is made at the mark; nobody is held")
      }
    return DriverTraits(version: version.description, hold: hold, sizeBytes: size > 0 ? size : nil)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    RabbitMQCapture(self, context)
  }

  /// What the server says of itself to whoever connects.
  func runningVersion(interruption: Interruption = Interruption()) async throws(DriverError) -> EngineVersion {
    let configuration = configuration
    let greeting: Greeting
    do throws(WireError) {
      greeting = try await environment.pool.run { () throws(WireError) -> Greeting in
        try Greeting.ask(
          host: configuration.host, port: configuration.port, patience: configuration.timeout,
          interruption: interruption)
      }
    } catch { throw error.driverError(at: peer, doing: "the greeting") }
    guard greeting.product == "RabbitMQ", let version = EngineVersion(greeting.version) else {
      throw .unsupported(
        "\(peer) says it is \(greeting.product.prefix(40)) \(greeting.version.prefix(40)), not RabbitMQ")
    }
    guard version.isAtLeast(3, 10), !version.isAtLeast(3, 11) else {
      throw .unsupported("RabbitMQ \(version) is not of the series 3.10, the one this driver knows")
    }
    return version
  }

  /// The version of the installed server, which lies in the directory of its script: nothing is run, since whatever could be
  /// asked begins by starting a port mapper.
  func installedVersion() async throws(DriverError) -> EngineVersion {
    let binary = configuration.binary
    return try await environment.pool.run { () throws(DriverError) -> EngineVersion in
      guard let resolved = realpath(binary, nil) else {
        throw .engineFailed("\(binary) can't be run", log: SystemFailure("realpath", path: binary).message)
      }
      defer { free(resolved) }
      // `…/sbin/rabbitmq-server` beside `…/plugins/rabbit-3.10.8`.
      let home = Files.parent(of: Files.parent(of: String(cString: resolved)))
      let names = ((try? Files.names(in: "\(home)/plugins")) ?? []).map(\.lossyText)
      let versions = names.filter { $0.hasPrefix("rabbit-") }.compactMap { EngineVersion($0.dropFirst(7)) }
      guard versions.count == 1 else {
        throw .engineFailed("\(binary) is not RabbitMQ's own script: there is no \(home)/plugins/rabbit-…", log: "")
      }
      return versions[0]
    }
  }

  // MARK: Queries

  /// `QUEUES [vhost]`, `COUNT queue [vhost]`; by the management plugin, which takes nothing from a queue.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let words = text.split(whereSeparator: \.isWhitespace).map(String.init)
    guard let user = configuration.user, let reference = configuration.password else {
      throw .unsupported("store \(configuration.store) has no 'user' and 'password' for queries")
    }
    let password: Secret
    do throws(AnyFailure) { password = try await environment.resolve(reference) } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    let management = try Management(
      host: configuration.host, port: configuration.managementPort, user: user, password: password,
      time: environment.time)
    let columns = "columns=name,vhost,type,messages"
    switch (words.first?.uppercased(), words.count) {
    case ("QUEUES", 1), ("QUEUES", 2):
      let place = words.count == 2 ? "/\(Management.encode(words[1]))" : ""
      let found = try await management.get("queues\(place)?\(columns)", limit.timeout).array ?? []
      return QueryResult(
        columns: ["queue", "vhost", "type", "messages"],
        rows: found.prefix(limit.rows).map {
          [$0["name"]?.string, $0["vhost"]?.string, $0["type"]?.string, $0["messages"]?.integer.map { String($0) }]
        }, isTruncated: found.count > limit.rows)
    case ("COUNT", 2), ("COUNT", 3):
      let place = "\(Management.encode(words.count == 3 ? words[2] : "/"))/\(Management.encode(words[1]))"
      let found = try await management.get("queues/\(place)?\(columns)", limit.timeout)
      return QueryResult(columns: ["messages"], rows: [[found["messages"]?.integer.map { String($0) }]])
    default: throw .queryFailed("it is none of QUEUES [vhost], COUNT queue [vhost]")
    }
  }
}

/// Such as 3.10.8.
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

  /// The same series, and no earlier release of it.
  func reads(_ other: EngineVersion) -> Bool {
    numbers.prefix(2) == other.numbers.prefix(2) && !numbers.lexicographicallyPrecedes(other.numbers)
  }

  var description: String { numbers.map(String.init).joined(separator: ".") }
}
