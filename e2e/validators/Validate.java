import java.io.FileInputStream;
import java.security.cert.CertPathValidator;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509CertSelector;
import java.security.cert.X509Certificate;
import java.util.List;
import java.util.Set;

/**
 * Validates a leaf and its issuing certificate up to a root, as RFC 5280 says and
 * the Java platform does it: java Validate.java PURPOSE ROOT ISSUING LEAF. The
 * purpose is the object identifier of an extended key usage that the leaf must
 * allow. Exits with 1 and the reason when it does not validate.
 */
public class Validate {
    public static void main(String[] args) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        X509Certificate[] certs = new X509Certificate[3];
        for (int i = 0; i < certs.length; i++) {
            try (FileInputStream in = new FileInputStream(args[i + 1])) {
                certs[i] = (X509Certificate) factory.generateCertificate(in);
            }
        }
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(certs[0], null)));
        // Nobody can be asked about revocation of a certificate for ten minutes.
        parameters.setRevocationEnabled(false);
        X509CertSelector leaf = new X509CertSelector();
        leaf.setExtendedKeyUsage(Set.of(args[0]));
        // digitalSignature is the first bit of KeyUsage.
        leaf.setKeyUsage(new boolean[] {true});
        parameters.setTargetCertConstraints(leaf);
        CertPathValidator.getInstance("PKIX").validate(factory.generateCertPath(List.of(certs[2], certs[1])), parameters);
        System.out.println("valid");
    }
}
