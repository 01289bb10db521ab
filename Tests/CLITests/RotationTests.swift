import Core
import IO
import TestSupport
import Testing

@Suite("The command line, with a repository under a new master key")
struct RotationTests {
  @Test(.timeLimit(.minutes(10)))
  func `points of a re-encrypted repository are found, verified and restored`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let point = try await site.newestPoint()
    let (to, password) = (site.home.file("vault-2"), site.home.file("password-2"))
    try site.write(password, "another\n")
    let rotated = try await site.salvor(
      "vault", "key", "rotate", "-r", site.vault, "-p", site.password, "--reencrypt", "--to", to,
      "--new-password-file", password, is: 0)
    #expect(rotated.out.contains("re-encrypted"), "\(rotated)")
    try Files.rename(site.vault, to: site.vault + "-old")
    try Files.rename(to, to: site.vault)
    try Files.rename(password, to: site.password)
    #expect(try await site.newestPoint() == point)
    try await site.salvor("verify", "--all", is: 0)
    try await site.damage()
    try await site.salvor("restore", "--yes", "-q", is: 0)
    #expect(try await site.entries() == Site.captured)
    try await site.salvor("backup", is: 0)
  }
}
