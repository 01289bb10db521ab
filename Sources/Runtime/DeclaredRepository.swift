import Catalog

/// A repository as the catalog declares it; the vault's own `Repository` is one that is open.
package typealias DeclaredRepository = Repository

/// A ready check as the catalog declares it; `ReadyCheck.Probe` is what a runner carries out.
package typealias DeclaredProbe = Probe

package typealias DeclaredDuties = Duties
