import Core
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import IO
import Logging
import NIOCore
import NIOSSL

#if canImport(Glibc)
  import Glibc
#endif

/// Serves restic repositories over HTTP until its task is cancelled.
package struct RepositoryServer: Sendable {
  private let settings: ServerSettings
  private let pool: BlockingPool
  private let randomness: any Randomness
  private let log: @Sendable (String) -> Void

  /// - Parameter log: Takes a line for what was refused. Never a secret.
  package init(
    _ settings: ServerSettings, pool: BlockingPool = .shared, randomness: any Randomness = SystemRandomness(),
    log: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    (self.settings, self.pool, self.randomness, self.log) = (settings, pool, randomness, log)
  }

  /// - Parameter ready: Called with the port once connections are taken.
  /// - Throws: ``ServerFailure``; `CancellationError` when it was cancelled.
  package func run(ready: @escaping @Sendable (Int) async -> Void = { _ in }) async throws {
    let settings = settings
    let quota: Quota
    do throws(SystemFailure) {
      quota = try await pool.run { () throws(SystemFailure) in
        try Files.createDirectory(settings.directory, mode: 0o700)
        return try Quota(
          limit: settings.quotaBytes, directory: settings.directory, perOwner: settings.hasPrivateRepositories)
      }
    } catch { throw ServerFailure.directory(error.report) }
    var users: Users?
    if let file = settings.usersFile { users = try await Users(file, pool: pool, randomness: randomness, log: log) }
    let responder = RepositoryResponder(
      settings: settings, users: users, quota: quota, counters: ServerCounters(), pool: pool, log: log)
    // Longer than clients keep a connection they don't use: a request must not meet a closing one.
    let http = HTTPServerBuilder.http1(configuration: .init(idleTimeout: .seconds(150)))
    let server = try await pool.run { () throws in
      try settings.tls.map { try HTTPServerBuilder.tls(http, tlsConfiguration: try Self.configuration($0)) } ?? http
    }
    var logger = Logger(label: "salvor.serve", factory: { _ in SwiftLogNoOpLogHandler() })
    logger.logLevel = .critical
    let application = Application(
      responder: responder, server: server,
      configuration: ApplicationConfiguration(
        address: .hostname(settings.host, port: settings.port), serverName: "salvor", backlog: 256),
      onServerRunning: { channel in await ready(channel.localAddress?.port ?? settings.port) }, logger: logger)
    do {
      try await application.run()
    } catch let error as IOError {
      throw ServerFailure.listen(
        "\(settings.host):\(settings.port)", String(cString: strerror(error.errnoCode)).lowercased())
    }
    try Task.checkCancellation()
  }

  private static func configuration(_ tls: ServerSettings.TLS) throws -> TLSConfiguration {
    let chain: [NIOSSLCertificate]
    let key: NIOSSLPrivateKey
    do { chain = try NIOSSLCertificate.fromPEMFile(tls.certificateFile) } catch {
      throw ServerFailure.certificate(tls.certificateFile, "there is no certificate in it")
    }
    do { key = try NIOSSLPrivateKey(file: tls.keyFile, format: .pem) } catch {
      throw ServerFailure.certificate(tls.keyFile, "there is no private key in it")
    }
    var result = TLSConfiguration.makeServerConfiguration(
      certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
    result.minimumTLSVersion = .tlsv12
    if let file = tls.clientAuthorityFile {
      do { result.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(file)) } catch {
        throw ServerFailure.certificate(file, "there is no certificate in it")
      }
      // A client has no name to be checked; its chain is.
      result.certificateVerification = .noHostnameVerification
    }
    return result
  }
}
