import CLibcrypto
import CShim
import Core
import IO
import Synchronization

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
/// Up to four lanes are computed side by side, on as many threads as there are groups of them or `threads`; where lanes would
/// take too much memory, libcrypto computes one after another.
///
/// - Parameter vectorBits: The widest instructions to use, of those that the processor has: 128, 256 or 512; 0 leaves all to
///   libcrypto.
///
/// Source: RFC 7914.
func scrypt(
  _ password: Secret, salt: [UInt8], _ parameters: ScryptParameters, threads: Int = 2, vectorBits: Int = 512
) throws(VaultError) -> MasterKey {
  guard parameters.isAffordable else {
    throw .cryptography("scrypt with N=\(parameters.n) r=\(parameters.r) p=\(parameters.p)")
  }
  var derived = [UInt8](repeating: 0, count: 64)
  defer { wipe(&derived) }
  let lanes = ScryptLanes(parameters, threads: threads)
  if vectorBits > 0, lanes.memoryBytes <= ScryptLanes.limitBytes {
    try lanes.derive(password, salt, vectorBits, into: &derived)
  } else {
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
    guard done == 1 else { throw .cryptography("EVP_PBE_scrypt") }
  }
  return MasterKey(derived: derived)
}

/// scrypt with its lanes side by side.
private struct ScryptLanes {
  /// More memory than this for a thread, and one lane after another is better.
  static let limitBytes = 128 << 20
  /// One of so many states is kept. Of two, restic's parameters would take 112 MiB instead of 75, and a sixth less time.
  private static let stride = 3

  private let parameters: ScryptParameters
  private let threads: Int
  /// Computed by one thread, side by side.
  private let groupLanes: Int

  init(_ parameters: ScryptParameters, threads: Int) {
    (self.parameters, self.threads) = (parameters, threads)
    let fitting = Self.limitBytes / (128 * parameters.r * ((parameters.n + Self.stride - 1) / Self.stride + 12))
    groupLanes = max(1, min(4, fitting, (parameters.p + threads - 1) / threads))
  }

  private var laneBytes: Int { 128 * parameters.r }
  /// For one thread.
  var memoryBytes: Int { laneBytes * (groupLanes * ((parameters.n + Self.stride - 1) / Self.stride) + 12) }

  func derive(
    _ password: Secret, _ salt: [UInt8], _ vectorBits: Int, into derived: inout [UInt8]
  ) throws(VaultError) {
    let groups = (parameters.p + groupLanes - 1) / groupLanes
    var lanes = [UInt8](repeating: 0, count: parameters.p * laneBytes)
    defer { wipe(&lanes) }
    try stretch(password, salt, into: &lanes)
    let next = Atomic(0)
    let isShort = Atomic(false)
    lanes.withUnsafeMutableBytes { raw in
      nonisolated(unsafe) let bytes = raw.baseAddress!.assumingMemoryBound(to: UInt8.self)
      BlockingPool.sideBySide(min(threads, groups)) {
        guard let memory = salvor_allocate_pages(memoryBytes) else { return isShort.store(true, ordering: .relaxed) }
        while case let group = next.wrappingAdd(1, ordering: .relaxed).oldValue, group < groups {
          let first = group * groupLanes
          salvor_scrypt_mix(
            bytes + first * laneBytes, min(groupLanes, parameters.p - first), parameters.n, parameters.r, Self.stride,
            memory,
            Int32(vectorBits))
        }
        OPENSSL_cleanse(memory, 12 * laneBytes)
        salvor_free_pages(memory, memoryBytes)
      }
    }
    if isShort.load(ordering: .relaxed) { throw .cryptography("no memory for scrypt") }
    try stretch(password, lanes, into: &derived)
  }

  /// PBKDF2 with HMAC-SHA-256 and one round.
  private func stretch(_ password: Secret, _ salt: [UInt8], into output: inout [UInt8]) throws(VaultError) {
    let done = password.withBytes { secret in
      PKCS5_PBKDF2_HMAC(
        secret.bindMemory(to: CChar.self).baseAddress, Int32(secret.count), salt, Int32(salt.count), 1, EVP_sha256(),
        Int32(output.count), &output)
    }
    guard done == 1 else { throw .cryptography("PKCS5_PBKDF2_HMAC") }
  }
}
