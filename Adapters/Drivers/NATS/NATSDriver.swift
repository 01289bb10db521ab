import Core
import DriverKit
import IO

/// The streams of one account of one NATS server.
struct NATSDriver: DataStoreDriver {
  let configuration: NATSConfiguration
  let environment: DriverEnvironment

  init(_ configuration: NATSConfiguration, _ environment: DriverEnvironment) {
    (self.configuration, self.environment) = (configuration, environment)
  }

  var peer: String { configuration.peer }

  func traits() async throws(DriverError) -> DriverTraits {
    let (version, cluster, streams) = try await withJetStream { server throws(WireError) in
      (server.client.info.version, server.client.info.cluster, try server.streams())
    }
    guard let version = EngineVersion(version), version.isAtLeast(2, 9) else {
      throw .unsupported("nats-server \(version) is older than 2.9, the oldest this driver knows")
    }
    var notes: [String] = []
    let inMemory = streams.filter(\.isInMemory).map(\.name)
    if !inMemory.isEmpty {
      notes.append("streams kept in memory are not captured: \(inMemory.joined(separator: ", "))")
    }
    let size = streams.reduce(Int64(0)) { sum, stream in
      let (next, overflow) = sum.addingReportingOverflow(stream.bytes)
      return overflow ? sum : next
    }
    return DriverTraits(
      version: version.description, hold: hold(cluster), sizeBytes: size > 0 ? size : nil, notes: notes)
  }

  /// - Parameter cluster: The server's, if it is in one.
  func hold(_ cluster: String?) -> HoldSupport {
    if let cluster {
      return .outside(
        why:
          "the server is one of cluster \(cluster): each stream's leader has a clock of its own, and no hold covers them "
          + "all; each stream is cut by its leader's clock")
    }
    switch configuration.hold {
    case .process: return .held(how: "the server's process stands still, which ends with ours")
    case .none:
      return .outside(
        why:
          "JetStream can't make publishers wait: all streams are cut at one moment of the server's clock, but nobody is "
          + "held; 'hold: process' holds a server on this machine")
    }
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    switch configuration.hold {
    case .none: NATSCapture(self, context)
    case .process: StandingCapture(self, context)
    }
  }

  // MARK: Connections

  func credential() async throws(DriverError) -> Credential {
    func resolve(_ reference: SecretReference) async throws(DriverError) -> Secret {
      do throws(AnyFailure) { return try await environment.resolve(reference) } catch {
        throw error.isCancellation ? .cancelled : .system(.init(error.report))
      }
    }
    if let reference = configuration.token { return .token(try await resolve(reference)) }
    if let user = configuration.user, let reference = configuration.password {
      return .password(user: user, try await resolve(reference))
    }
    return .none
  }

  func connect(interruption: Interruption = Interruption()) async throws(DriverError) -> JetStream {
    let credential = try await credential()
    let (configuration, inbox) = (configuration, Hex.encode(environment.randomness.bytes(12)))
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> JetStream in
        let socket = try Socket.connect(
          host: configuration.host, port: configuration.port, patience: configuration.timeout,
          interruption: interruption)
        return JetStream(
          client: try Client(
            socket, as: credential, inbox: "\(configuration.inbox).\(inbox)", patience: configuration.timeout,
            interruption: interruption))
      }
    } catch { throw error.driverError(at: peer, doing: "the connection") }
  }

  /// Runs `body` with a connection of its own, off the cooperative pool.
  func withJetStream<T: Sendable>(
    _ body: @escaping @Sendable (JetStream) throws(WireError) -> T
  ) async throws(DriverError) -> T {
    try await asking(try await connect(), body)
  }

  func asking<T: Sendable>(
    _ server: JetStream, _ body: @escaping @Sendable (JetStream) throws(WireError) -> T
  ) async throws(DriverError) -> T {
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> T in try body(server) }
    } catch { throw error.driverError(at: peer, doing: "JetStream") }
  }
}
