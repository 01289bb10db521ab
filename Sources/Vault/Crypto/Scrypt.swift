import CLibcrypto
import Core

/// What turning a password into a key costs.
package struct ScryptParameters: Hashable, Sendable {
  package var n: Int
  package var r: Int
  package var p: Int

  /// What restic arrives at on a machine of 2022: 0.4 s and 32 MiB.
  package static let standard = ScryptParameters(n: 32_768, r: 8, p: 7)

  package init(n: Int, r: Int, p: Int) { (self.n, self.r, self.p) = (n, r, p) }

  /// Whether deriving takes no more than 512 MiB and about 15 s; a damaged or hostile key file may ask for anything.
  package var isAffordable: Bool {
    guard n > 1, n & (n - 1) == 0, n <= 1 << 24, (1...1024).contains(r), (1...1024).contains(p) else { return false }
    return 128 * n * r <= 512 << 20 && n * r * p <= 1 << 26
  }
}

/// Derives the key that wraps the master key. Blocks for as long as ``ScryptParameters`` make it.
///
/// Source: RFC 7914.
func scrypt(_ password: Secret, salt: [UInt8], _ parameters: ScryptParameters) throws(VaultError) -> MasterKey {
  guard parameters.isAffordable else {
    throw .cryptography("scrypt with N=\(parameters.n) r=\(parameters.r) p=\(parameters.p)")
  }
  var derived = [UInt8](repeating: 0, count: 64)
  let memory = UInt64(128 * parameters.r * (parameters.n + parameters.p + 2)) + (1 << 20)
  let done = password.withBytes { secret in
    salt.withUnsafeBufferPointer { salt in
      derived.withUnsafeMutableBufferPointer { output in
        EVP_PBE_scrypt(
          secret.bindMemory(to: CChar.self).baseAddress, secret.count, salt.baseAddress, salt.count,
          UInt64(parameters.n), UInt64(parameters.r), UInt64(parameters.p), memory, output.baseAddress, output.count)
      }
    }
  }
  defer { wipe(&derived) }
  guard done == 1 else { throw .cryptography("EVP_PBE_scrypt") }
  return MasterKey(derived: derived)
}
