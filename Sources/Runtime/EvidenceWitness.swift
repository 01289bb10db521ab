import Core
import Governance
import IO

/// This machine as a witness of others' logs, in `witness/` of the state directory, with a key of its own.
package struct EvidenceWitness: Sendable {
  private let host: Machine

  package init(host: Machine) { self.host = host }

  private var files: LogDirectory { LogDirectory(host.path("witness")) }

  /// How many entries were seen of a log.
  package func seen(_ origin: String) async throws(AnyFailure) -> Int64 {
    do {
      let files = files
      return try await host.pool.run { () throws(LogError) in try Witness(files).seen(origin)?.size ?? 0 }
    } catch { throw AnyFailure(error) }
  }

  package func key() async throws(AnyFailure) -> NoteKey {
    do {
      let (signer, name) = try await signer()
      return try WitnessSigner(name: name, signer, at: host.time.now()).key
    } catch { throw AnyFailure(error) }
  }

  /// Takes note, durably, and only then signs.
  ///
  /// - Returns: The lines of the signatures.
  package func observe(_ request: [UInt8], trusting keys: [NoteKey]) async throws(AnyFailure) -> String {
    do {
      let (signer, name) = try await signer()
      let files = files
      let checkpoint = try await host.pool.run { () throws(LogError) in
        try Witness(files).observe(try WitnessRequest(request), trusting: keys)
      }
      return try WitnessSigner(name: name, signer, at: host.time.now()).signature(of: checkpoint.head.text).line
    } catch { throw AnyFailure(error) }
  }

  /// Not the key of this machine's own log: a witness's word means something else.
  private func signer() async throws -> (EvidenceSigner, name: String) {
    let (path, files, randomness) = (host.path("witness/key"), files, host.randomness)
    let signer = try await host.pool.run {
      var result: Result<EvidenceSigner, any Error>?
      try files.alone { () throws(LogError) in
        result = Result {
          if try Files.isThere(path) {
            return try EvidenceSigner(privateKeyFile: Secret(try Files.read(path, limitBytes: 1 << 16)))
          }
          let signer = try EvidenceSigner.create(randomness: randomness)
          try Files.replace(path, with: signer.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
          return signer
        }
      }
      guard let result else { throw LogError.badKey("the witness's directory could not be locked") }
      return try result.get()
    }
    return (signer, "\(EvidenceKeyring.hostPart(host.name))/witness/\(signer.publicKey.id.prefix(8))")
  }
}
