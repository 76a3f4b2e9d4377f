package main

// The types of issuers whose templates are built into Fulcio. They are
// deprecated there in favour of ci-provider, but files that have them work.
const (
	kindGitHub    = "github-workflow"
	kindGitLab    = "gitlab-pipeline"
	kindBuildkite = "buildkite-job"
)

var builtinProviders = map[string]fulcioProvider{
	kindGitHub: {
		defaults: map[string]string{"url": "https://github.com"},
		san:      "{{ .url }}/{{ .job_workflow_ref }}",
		extensions: []fulcioTemplate{
			{"github_workflow_trigger", "event_name"},
			{"github_workflow_sha", "sha"},
			{"github_workflow_name", "workflow"},
			{"github_workflow_repository", "repository"},
			{"github_workflow_ref", "ref"},
			{"build_signer_uri", "{{ .url }}/{{ .job_workflow_ref }}"},
			{"build_signer_digest", "job_workflow_sha"},
			{"runner_environment", "runner_environment"},
			{"source_repository_uri", "{{ .url }}/{{ .repository }}"},
			{"source_repository_digest", "sha"},
			{"source_repository_ref", "ref"},
			{"source_repository_identifier", "repository_id"},
			{"source_repository_owner_uri", "{{ .url }}/{{ .repository_owner }}"},
			{"source_repository_owner_identifier", "repository_owner_id"},
			{"build_config_uri", "{{ .url }}/{{ .workflow_ref }}"},
			{"build_config_digest", "workflow_sha"},
			{"build_trigger", "event_name"},
			{"run_invocation_uri", "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}"},
			{"source_repository_visibility_at_signing", "repository_visibility"},
		},
	},
	kindGitLab: {
		defaults: map[string]string{"url": "https://gitlab.com"},
		san:      "https://{{ .ci_config_ref_uri }}",
		extensions: []fulcioTemplate{
			{"build_signer_uri", "https://{{ .ci_config_ref_uri }}"},
			{"build_signer_digest", "ci_config_sha"},
			{"runner_environment", "runner_environment"},
			{"source_repository_uri", "{{ .url }}/{{ .project_path }}"},
			{"source_repository_digest", "sha"},
			{"source_repository_ref", `refs/{{if eq .ref_type "branch"}}heads/{{else}}tags/{{end}}{{ .ref }}`},
			{"source_repository_identifier", "project_id"},
			{"source_repository_owner_uri", "{{ .url }}/{{ .namespace_path }}"},
			{"source_repository_owner_identifier", "namespace_id"},
			{"build_config_uri", "https://{{ .ci_config_ref_uri }}"},
			{"build_config_digest", "ci_config_sha"},
			{"build_trigger", "pipeline_source"},
			{"run_invocation_uri", "{{ .url }}/{{ .project_path }}/-/jobs/{{ .job_id }}"},
			{"source_repository_visibility_at_signing", "project_visibility"},
		},
	},
	kindBuildkite: {
		defaults: map[string]string{"url": "https://buildkite.com"},
		san:      "{{ .url }}/{{ .organization_slug }}/{{ .pipeline_slug }}",
	},
}
