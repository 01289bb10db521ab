import Core
import HummingbirdCore
import IO
import Logging
import NIOCore
import NIOSSL
import Synchronization
import Web

/// Files by which agents know each other; all in PEM.
package struct AgentCertificates: Sendable, Equatable {
  /// The agent's chain, and the key of its first certificate: shown to whoever connects, and to whom it connects.
  package var certificateFile: String?
  package var keyFile: String?
  /// Who signs agents. With it, an agent speaks only to those who show a certificate of theirs.
  package var authorityFile: String?

  package init(certificateFile: String? = nil, keyFile: String? = nil, authorityFile: String? = nil) {
    (self.certificateFile, self.keyFile, self.authorityFile) = (certificateFile, keyFile, authorityFile)
  }

  package var isServer: Bool { certificateFile != nil && keyFile != nil }

  fileprivate var paths: [String] { [certificateFile, keyFile, authorityFile].compactMap { $0 } }
}

/// Who an agent is to others, and whom it takes for one: its side of TLS, both as a server and as a client.
///
/// The files are read again when they change; connections made after that use what they say. Files that can't be used
/// leave things as they were.
package final class AgentIdentity: WebTransport {
  private let files: AgentCertificates
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let log: @Sendable (String) -> Void
  private let state: Mutex<Loaded>

  private struct Loaded: Sendable {
    var contents: [[UInt8]]
    var server: NIOSSLContext?
    var client: WebClient
  }

  /// Blocks while files are read.
  package init(
    _ files: AgentCertificates, time: any Timekeeper, pool: BlockingPool,
    log: @escaping @Sendable (String) -> Void = { _ in }
  ) throws {
    (self.files, self.time, self.pool, self.log) = (files, time, pool, log)
    state = Mutex(try Self.load(files, time))
  }

  package var isServer: Bool { files.isServer }

  var serverContext: NIOSSLContext? { state.withLock { $0.server } }

  package func send(_ request: WebRequest) async throws(WebFailure) -> WebResponse {
    let client = state.withLock { $0.client }
    return try await client.send(request)
  }

  /// Looks at the files every so often, until its task is cancelled.
  package func keepFresh(every interval: Duration = .seconds(2)) async throws {
    var complaint = ""
    while true {
      try await time.sleep(for: interval)
      let (files, time) = (files, time)
      do {
        guard try await pool.run({ try Self.contents(files) }) != state.withLock({ $0.contents }) else { continue }
        let loaded = try await pool.run { try Self.load(files, time) }
        state.withLock { $0 = loaded }
        log("certificates were read again")
        complaint = ""
      } catch {
        let text = AnyFailure(error).report.summary
        if text != complaint { log("certificates stay as they were: \(text)") }
        complaint = text
      }
    }
  }

  private static func contents(_ files: AgentCertificates) throws -> [[UInt8]] {
    try files.paths.map { try Files.read($0, limitBytes: 1 << 20) }
  }

  private static func load(_ files: AgentCertificates, _ time: any Timekeeper) throws -> Loaded {
    let contents = try contents(files)
    let trust = WebTrust(
      authorityFile: files.authorityFile, clientCertificateFile: files.certificateFile, clientKeyFile: files.keyFile)
    let client: WebClient
    do { client = try WebClient(trust, time: time) } catch {
      throw AgentTrustFailure.certificate("\(error)")
    }
    var server: NIOSSLContext?
    if let certificate = files.certificateFile, let key = files.keyFile {
      do { server = try NIOSSLContext(configuration: try configuration(certificate, key, files.authorityFile)) } catch {
        throw AgentTrustFailure.certificate("\(certificate) and \(key) are no chain and its key: \(error)")
      }
    }
    return Loaded(contents: contents, server: server, client: client)
  }

  private static func configuration(
    _ certificate: String, _ key: String, _ authority: String?
  ) throws -> TLSConfiguration {
    var result = TLSConfiguration.makeServerConfiguration(
      certificateChain: try NIOSSLCertificate.fromPEMFile(certificate).map { .certificate($0) },
      privateKey: .privateKey(try NIOSSLPrivateKey(file: key, format: .pem)))
    result.minimumTLSVersion = .tlsv12
    if let authority {
      result.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(authority))
      // Who connects has no name to be checked; its chain is.
      result.certificateVerification = .noHostnameVerification
    }
    return result
  }
}

/// Why agents can't know each other.
package enum AgentTrustFailure: Failure {
  case certificate(String)
  case openToAll(String)

  package var report: Report {
    switch self {
    case .certificate(let what):
      Report("FAILOVER-111", "can't use the certificates: \(what)")
        .remedy("give a chain, its unencrypted key, and who signs agents, each in PEM")
    case .openToAll(let address):
      Report("FAILOVER-112", "\(address) is reached by other machines, and agents would speak without TLS")
        .remedy("give --tls-cert, --tls-key and --tls-ca; or --insecure on a network of its own")
    }
  }
}

/// HTTP/1.1 in TLS with what the identity has at the moment of the connection.
struct IdentifiedChannel: ServerChildChannel {
  typealias Value = HTTP1Channel.Value

  let base: HTTP1Channel
  let identity: AgentIdentity

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
    channel.eventLoop.makeCompletedFuture {
      guard let context = identity.serverContext else { throw AgentTrustFailure.certificate("there are none") }
      try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: context))
    }.flatMap { base.setup(channel: channel, logger: logger) }
  }

  func handle(value: Value, logger: Logger) async { await base.handle(value: value, logger: logger) }
}
